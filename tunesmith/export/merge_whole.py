"""Merging and measuring with the whole model in memory: for adapters and models that cannot be taken apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import BadInput, CheckFailed, OutOfMemory
from tunesmith.export.adapter_weights import ADAPTER_FILE
from tunesmith.export.quality import Reference, TokenRow
from tunesmith.export.streamed import GIB, MEASURING_S, PATIENCE_S, Check, Unmeasured, speed
from tunesmith.export.weight_files import WeightFiles

SPARE = 1.15  # of the weights: what comes on top of them


def load(folder: Path) -> Any:
    """A model in the precision it is stored in.

    Raises:
        OutOfMemory: it would not fit.
    """
    import psutil
    from transformers import AutoModelForCausalLM

    needed, free = SPARE * WeightFiles(folder).bytes, psutil.virtual_memory().available
    if needed > free:
        raise OutOfMemory(
            f"This model has to be in memory as a whole, which needs {needed / GIB:.1f} GiB; "
            f"{free / GIB:.1f} GiB are free.",
            next="Close other programs, or export on a machine with more memory.",
        )
    # "auto": the precision the weights are stored in.
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, use_safetensors=True
    ).eval()


def load_with_adapter(base: Path, adapter: Path) -> Any:
    """PEFT's model. Raises as `load`; BadInput: the adapter does not belong to this base."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    model = load(base)
    try:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=False, torch_device="cpu").eval()
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise _foreign(adapter, str(error)[:300]) from error
    # What has no place in this base the library passes over, with a warning.
    with safe_open(adapter / ADAPTER_FILE, "pt") as file:
        trained = {name for name in file.keys() if ".lora_" in name}  # noqa: SIM118 - it is no dict
    placed = {name for name in get_peft_model_state_dict(model, save_embedding_layers=False) if ".lora_" in name}
    if trained != placed:
        raise _foreign(adapter, f"{sorted(trained ^ placed)[0]} is in one of them only")
    return model


def _foreign(adapter: Path, why: str) -> BadInput:
    return BadInput(
        f"The adapter in {adapter} cannot be put on this base: {why}",
        next="Check that the model's base is the one it was trained on; train again if its files are damaged.",
    )


def write_merged(model: Any, output: Path, stored: Any) -> None:
    """Merge PEFT's model and save it.

    Args:
        stored: torch's dtype to save in.

    Raises:
        CheckFailed: the merged weights hold NaN.
    """
    try:
        model = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # safe_merge looks for NaN
        raise CheckFailed(
            f"The adapter cannot be merged: {str(error)[:300]}",
            next="Call diagnose_run for the training run: an adapter that holds NaN has diverged.",
        ) from error
    model = model.to(stored)
    # What is read back is plain weights, whatever the base was loaded from.
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(output)


def record(model: Any, rows: Sequence[TokenRow], place: Path, check: Check, *, all_rows: bool = False) -> Reference:
    """The distributions of a model in memory, computed in 32 bits where memory allows.

    Raises:
        Unmeasured: it would take too long.
    """
    stored = model.dtype
    device, dtype = where(model)
    weights = model.get_memory_footprint() // model.dtype.itemsize
    seconds = 2 * weights * min(len(row.ids) for row in rows) / speed(device, dtype)
    if seconds > PATIENCE_S:
        raise Unmeasured(f"reading one text would take about {seconds / 60:.0f} minutes here")
    model.to(device=device, dtype=dtype)
    try:
        return Reference.record(place, rows if all_rows else _in_time(rows, check), _evaluator(model, device))
    finally:
        model.to(device="cpu", dtype=stored)


def where(model: Any) -> tuple[str, Any]:
    """Device and precision to compute in: a GPU with room for the weights, else this CPU."""
    import psutil
    import torch

    size = model.get_memory_footprint()
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.3 * size:
        return "cuda", model.dtype
    as_float32 = size * 4 // model.dtype.itemsize
    # 16 bits are computed slowly or not at all on most processors.
    fits = model.dtype == torch.float32 or psutil.virtual_memory().available > 1.3 * as_float32
    return "cpu", torch.float32 if fits else model.dtype


def _in_time(rows: Sequence[TokenRow], check: Check) -> Iterator[TokenRow]:
    """The rows, until the time for measuring is over; at least one."""
    deadline = time.monotonic() + MEASURING_S
    for number, row in enumerate(rows):
        check()
        if number and time.monotonic() > deadline:
            return
        yield row


def _evaluator(model: Any, device: str) -> Callable[[list[int], list[int]], Iterator[Any]]:
    import torch

    def evaluate(ids: list[int], positions: list[int]) -> Iterator[Any]:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, positions]
            logits = logits.float().cpu().numpy()
        yield from logits

    return evaluate
