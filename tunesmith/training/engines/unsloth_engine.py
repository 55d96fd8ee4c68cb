"""The fast engine on CUDA. Importing it patches transformers, so it must come first, in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from tunesmith.training.engines import attention
from tunesmith.training.engines.loaded import Loaded
from tunesmith.training.recipe import Recipe

CACHE_VARIABLE = "UNSLOTH_COMPILE_LOCATION"


def import_problem(run_dir: Path) -> str | None:
    """Import Unsloth, its compile cache inside the run. Why it failed, or None.

    Unsloth raises whatever its many imports raise (no card, a version it does not
    know, a missing compiler), so anything counts as "cannot be used here".
    """
    os.environ.setdefault(CACHE_VARIABLE, str(run_dir / "unsloth_compiled_cache"))
    # All files are here by now: nothing is to be looked up, counted or waited for on the network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    attention.offer_groups()
    try:
        import unsloth  # noqa: F401
    except Exception as error:  # noqa: BLE001 - see above; the reason is recorded with the run
        return f"Unsloth cannot be used: {type(error).__name__}: {str(error)[:200]}"
    return None


def load(base: Path, recipe: Recipe, _dtype_so_far: str | None = None, _joins_so_far: bool | None = None) -> Loaded:
    """Load the weights and put a fresh adapter on them. `import_problem` must have returned None.

    The number format follows from the card, and packed rows are never joined, so what was so far does not matter here.
    """
    import torch
    from unsloth import FastLanguageModel

    assert recipe.adapter is not None  # the planner gives method full to the other engine
    recompute = "unsloth" if recipe.gradient_checkpointing == "on" else False
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=str(base),
        max_seq_length=recipe.max_length,
        load_in_4bit=recipe.method == "qlora",
        use_gradient_checkpointing=recompute,
        local_files_only=True,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=recipe.adapter.rank,
        lora_alpha=recipe.adapter.alpha,
        lora_dropout=recipe.adapter.dropout,
        target_modules=list(recipe.adapter.target_modules),
        bias="none",
        use_gradient_checkpointing=recompute,
        random_state=recipe.seed,
    )
    dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return Loaded(model, tokenizer, "cuda", torch.cuda.get_device_name(0), dtype, "Unsloth's choice for this card.")
