"""A PEFT adapter put into the weights of its base: 16 or 32 bits, in CPU memory, never onto quantised weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput, CheckFailed, NotSupported
from tunesmith.export.quality import Reference, TokenRow, compare_rows
from tunesmith.export.records import Divergence
from tunesmith.models.tokenizer_files import copy_tokenizer

if TYPE_CHECKING:
    from tunesmith.models.prompt_format import PromptFormat

MEASURING_S = 45.0  # a slow machine measures on fewer rows rather than for ever

Check = Callable[[], None]


@dataclass(frozen=True)
class Merged:
    """What merging left.

    Attributes:
        divergence: of the merged weights as saved from base plus adapter; None without rows.
        reference: the merged weights' distributions, for the GGUF files to be held against; None without rows.
    """

    divergence: Divergence | None
    reference: Reference | None


def check_base(config: dict[str, Any], base_model: str) -> None:
    """Refuse a base whose weights are quantised: an adapter merged into 4 bits loses what it learned.

    Raises:
        NotSupported: it is quantised.
    """
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise NotSupported(
            f"The weights of {base_model} are quantised ({method}); an adapter is merged into 16-bit weights only.",
            next="Train on the 16-bit version of the same base (method qlora quantises it while training), "
            "or call export_gguf with adapter_only=true.",
        )


def merge(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    prompt_format: PromptFormat,
    rows: Sequence[TokenRow],
    scratch: Path,
    check: Check,
) -> Merged:
    """Write base plus adapter as an ordinary Hugging Face folder.

    Args:
        base: folder with config and 16- or 32-bit safetensors.
        adapter: folder with a PEFT adapter and the tokenizer's files.
        output: an existing, empty folder.
        rows: texts to compare on; none: nothing is compared.
        scratch: an existing folder for the recorded distributions.
        check: called between steps; raises when the run was cancelled.

    Raises:
        BadInput: the adapter cannot be read, or does not belong to this base.
        CheckFailed: the merged weights hold NaN.
    """
    model = _load(base)
    stored = model.dtype
    check()
    model = _with_adapter(model, adapter)
    before = _record(model, rows, scratch / "before-merging", check) if rows else None
    model = _merge(model).to(stored)
    write_config_clean(model, output)
    copy_tokenizer((adapter, base), output, prompt_format)
    check()
    if before is None:
        return Merged(None, None)
    after = _record(model, before.rows, scratch / "after-merging", check)
    return Merged(compare_rows(before, _replay(after)), after)


def record_whole(folder: Path, rows: Sequence[TokenRow], scratch: Path, check: Check) -> Reference:
    """The distributions of whole weights: merged before, or trained as such."""
    return _record(_load(folder), rows, scratch / "after-merging", check)


def write_config_clean(model: Any, output: Path) -> None:
    """Save a model so that what is read back is plain weights, whatever the base was loaded from."""
    config = model.config
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    # Set when the weights were read from a quantised file; saving refuses while they are.
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(output, safe_serialization=True)


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    # "auto": the precision the weights are stored in.
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, use_safetensors=True
    ).eval()


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=False, torch_device="cpu").eval()
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise BadInput(
            f"The adapter in {adapter} cannot be put on this base: {str(error)[:300]}",
            next="Check that the model's base is the one it was trained on; train again if its files are damaged.",
        ) from error


def _merge(model: Any) -> Any:
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # safe_merge looks for NaN
        raise CheckFailed(
            f"The adapter cannot be merged: {str(error)[:300]}",
            next="Call diagnose_run for the training run: an adapter that holds NaN has diverged.",
        ) from error


def _record(model: Any, rows: Sequence[TokenRow], folder: Path, check: Check) -> Reference:
    """Record the distributions of a model, computed in 32 bits where memory allows, weights as they are stored."""
    stored = model.dtype
    device, dtype = _where(model)
    model.to(device=device, dtype=dtype)
    try:
        return Reference.record(folder, _in_time(rows, check), _evaluator(model, device))
    finally:
        model.to(device="cpu", dtype=stored)


def _in_time(rows: Sequence[TokenRow], check: Check) -> Iterator[TokenRow]:
    """The rows, until the time for measuring is over; at least one."""
    deadline = time.monotonic() + MEASURING_S
    for number, row in enumerate(rows):
        check()
        if number and time.monotonic() > deadline:
            return
        yield row


def _where(model: Any) -> tuple[str, Any]:
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


def _evaluator(model: Any, device: str) -> Callable[[list[int], list[int]], Iterator[Any]]:
    import torch

    def evaluate(ids: list[int], positions: list[int]) -> Iterator[Any]:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, positions]
            yield from logits.float().cpu().numpy()

    return evaluate


def _replay(reference: Reference) -> Callable[[list[int], list[int]], Iterator[Any]]:
    """What was recorded, as if the model computed it again."""
    recorded = reference.logprobs()

    def evaluate(_ids: list[int], positions: list[int]) -> Iterator[Any]:
        for _ in positions:
            yield next(recorded)

    return evaluate
