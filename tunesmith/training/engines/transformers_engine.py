"""The engine that runs everywhere: transformers and PEFT, with bitsandbytes for 4-bit weights on CUDA."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed

from tunesmith.machine.compute import choose_cpu_dtype
from tunesmith.training.engines.loaded import Loaded
from tunesmith.training.recipe import Recipe

BFLOAT16_CAPABILITY = 8


def load(base: Path, recipe: Recipe, dtype_so_far: str | None = None) -> Loaded:
    """Load the weights and put a fresh adapter on them.

    Args:
        base: folder with config, weights and tokenizer. Nothing is downloaded.
        dtype_so_far: the number format this training began in. On a CPU it is measured, and a busy machine may
            measure otherwise the second time.
    """
    set_seed(recipe.seed)
    device, name, dtype, reason = _device(dtype_so_far)
    quantization = None
    if recipe.method == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=dtype,
        attn_implementation="sdpa",
        local_files_only=True,
        **({"quantization_config": quantization, "device_map": {"": 0}} if quantization else {}),
    )
    model.config.use_cache = False
    # Not PEFT's prepare_model_for_kbit_training: it lifts embeddings and head to 32 bits, 2 GiB more for a model of
    # 7 billion. PEFT freezes the weights below, recomputation is the trainer's business, and norms compute in 32 bits.
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    return Loaded(get_peft_model(model, config), tokenizer, device, name, str(dtype).removeprefix("torch."), reason)


def _device(dtype_so_far: str | None) -> tuple[str, str, torch.dtype, str]:
    """Device, its name, the number format and why."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        if torch.cuda.get_device_capability(0)[0] >= BFLOAT16_CAPABILITY:
            return "cuda", name, torch.bfloat16, "The card computes in bfloat16."
        return "cuda", name, torch.float16, "The card has no bfloat16."
    dtype, reason = (dtype_so_far, "As this training began.") if dtype_so_far else choose_cpu_dtype()
    return "cpu", "CPU", getattr(torch, dtype), reason
