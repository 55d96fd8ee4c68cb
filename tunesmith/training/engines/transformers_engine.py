"""The engine that runs everywhere: transformers and PEFT, with bitsandbytes for 4-bit weights on CUDA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerFast, set_seed

from tunesmith.machine.compute import choose_cpu_dtype
from tunesmith.machine.packages import numbers
from tunesmith.models.four_bits import four_bits
from tunesmith.models.tokenizer_files import read_tokenizer
from tunesmith.training.engines import attention
from tunesmith.training.engines.loaded import Loaded
from tunesmith.training.kernels import keeps_rows_apart
from tunesmith.training.recipe import Recipe

BFLOAT16_CAPABILITY = 8


def load(base: Path, recipe: Recipe, dtype_so_far: str | None = None, joins_so_far: bool | None = None) -> Loaded:
    """Load the weights and put a fresh adapter on them; with method full, every weight is to be trained.

    Args:
        base: folder with config, weights and tokenizer. Nothing is downloaded.
        dtype_so_far: the number format this training began in. On a CPU it is measured, and a busy machine may
            measure otherwise the second time.
        joins_so_far: whether packed rows were joined in this training; None: it begins. One that left them to TRL,
            as earlier versions and Unsloth do, goes on so: in other sequences its rows would come in another order.
    """
    set_seed(recipe.seed)
    device, name, dtype, reason = _device(recipe, dtype_so_far)
    quantization = None
    if recipe.method == "qlora":
        quantization = BitsAndBytesConfig(**four_bits(dtype))
    joins = recipe.packing and joins_so_far is not False and _keeps_rows_apart(base, device)
    if joins:
        attention.register()
    model = AutoModelForCausalLM.from_pretrained(
        base,
        # At a rate of 2e-5 a step changes most weights by less than half of what separates two numbers in 16 bits, and
        # rounding would undo it: where they are trained themselves they are kept in 32, and the trainer's autocast
        # computes in `dtype`.
        dtype=dtype if recipe.adapter else torch.float32,
        attn_implementation=attention.NAME if joins else "sdpa",
        local_files_only=True,
        **({"quantization_config": quantization, "device_map": {"": 0}} if quantization else {}),
    )
    model.config.use_cache = False
    tokenizer = _tokenizer(base)
    number = str(dtype).removeprefix("torch.")
    if recipe.adapter is None:
        return Loaded(model, tokenizer, device, name, number, reason, joins)
    # Not PEFT's prepare_model_for_kbit_training: it lifts embeddings and head to 32 bits, 2 GiB more for a model of
    # 7 billion. PEFT freezes the weights below, recomputation is the trainer's business, and norms compute in 32 bits.
    config = LoraConfig(
        r=recipe.adapter.rank,
        lora_alpha=recipe.adapter.alpha,
        lora_dropout=recipe.adapter.dropout,
        target_modules=list(recipe.adapter.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return Loaded(get_peft_model(model, config), tokenizer, device, name, number, reason, joins)


def _tokenizer(base: Path) -> Any:
    """The tokenizer, which only pads here: rows are tokenised before."""
    if (base / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(base, local_files_only=True)
    # Of a tokenizer.model transformers makes another one, which splits text otherwise, and that with further packages.
    config_path = base / "tokenizer_config.json"
    config = json.loads(config_path.read_bytes()) if config_path.is_file() else {}
    names = ("bos_token", "eos_token", "pad_token")
    special = {name: config[name] for name in names if isinstance(config.get(name), str)}
    return PreTrainedTokenizerFast(tokenizer_object=read_tokenizer(base), **special)


def _keeps_rows_apart(base: Path, device: str) -> bool:
    config = json.loads((base / "config.json").read_bytes())
    capability = float(".".join(map(str, torch.cuda.get_device_capability(0)))) if device == "cuda" else None
    return keeps_rows_apart(config, capability=capability, torch=numbers(torch.__version__))


def _device(recipe: Recipe, dtype_so_far: str | None) -> tuple[str, str, torch.dtype, str]:
    """Device, its name, the number format and why."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        if torch.cuda.get_device_capability(0)[0] >= BFLOAT16_CAPABILITY:
            return "cuda", name, torch.bfloat16, "The card computes in bfloat16."
        return "cuda", name, torch.float16, "The card has no bfloat16."
    if recipe.adapter is None:
        return "cpu", "CPU", torch.float32, "Every weight is trained: 16 bits would round small changes away."
    dtype, reason = (dtype_so_far, "As this training began.") if dtype_so_far else choose_cpu_dtype()
    return "cpu", "CPU", getattr(torch, dtype), reason
