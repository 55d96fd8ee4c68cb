"""A PEFT adapter put into the weights of its base: 16 or 32 bits, in CPU memory, never onto quantised weights."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput, CheckFailed, NotSupported
from tunesmith.export.quality import Reference, TokenRow, compare_rows
from tunesmith.export.records import Divergence

if TYPE_CHECKING:
    from tunesmith.models.prompt_format import PromptFormat

# Whatever a tokenizer may consist of. The chat template is not copied: the prompt format brings it.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip
MEASURING_S = 45.0  # a slow machine measures on fewer rows rather than for ever

Check = Callable[[], None]


@dataclass(frozen=True)
class Merged:
    """What merging left.

    Attributes:
        divergence: of the merged weights as saved from base plus adapter; None without rows or without adapter.
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
        adapter: folder with a PEFT adapter and the tokenizer's files, or with a whole model (full fine-tuning).
        output: an existing, empty folder.
        rows: texts to compare on; none: nothing is compared.
        scratch: an existing folder for the recorded distributions.
        check: called between steps; raises when the run was cancelled.

    Raises:
        BadInput: the adapter cannot be read, or does not belong to this base.
        CheckFailed: the merged weights hold NaN.
    """
    whole = is_whole_model(adapter)
    model = _load(adapter if whole else base)
    stored = model.dtype
    check()
    before = None
    if not whole:
        model = _with_adapter(model, adapter)
        if rows:
            before = _record(model, rows, scratch / "before-merging", check)
        model = _merge(model)
    model = model.to(stored)
    write_config_clean(model, output)
    copy_tokenizer((adapter, base), output, prompt_format)
    check()
    if not rows:
        return Merged(None, None)
    after = _record(model, before.rows if before else rows, scratch / "after-merging", check)
    return Merged(compare_rows(before, _replay(after)) if before else None, after)


def record_merged(folder: Path, rows: Sequence[TokenRow], scratch: Path, check: Check) -> Reference:
    """The distributions of weights that were merged before."""
    return _record(_load(folder), rows, scratch / "after-merging", check)


def is_whole_model(folder: Path) -> bool:
    """Whether the trained folder holds a whole model rather than an adapter."""
    return not (folder / "adapter_config.json").is_file() and (folder / "config.json").is_file()


def write_config_clean(model: Any, output: Path) -> None:
    """Save a model so that what is read back is plain weights, whatever the base was loaded from."""
    config = model.config
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    # Set when the weights were read from a quantised file; saving refuses while they are.
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(output, safe_serialization=True)


def copy_tokenizer(sources: Sequence[Path], output: Path, prompt_format: PromptFormat) -> None:
    """Copy a tokenizer, with the trained prompt format as its chat template and its end token as EOS.

    Args:
        sources: the first folder that holds a tokenizer is used.

    Raises:
        BadInput: none holds one.
    """
    for source in sources:
        found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
        if any(path.name in ("tokenizer.json", "tokenizer.model") for path in found):
            break
    else:
        raise BadInput(
            f"There is no tokenizer beside the adapter or its base ({', '.join(map(str, sources))}).",
            next="Train again; a finished training run leaves tokenizer.json in the adapter's folder.",
        )
    for path in found:
        shutil.copyfile(path, output / path.name)
    (output / "chat_template.jinja").write_text(_self_contained(prompt_format), encoding="utf-8")
    settings_path = output / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
    # A template in here would win over the file in the converter, and lose to it in transformers.
    settings.pop("chat_template", None)
    # A template that prints eos_token must find there what it found in training.
    settings["eos_token"] = prompt_format.template_eos if _prints(prompt_format, "eos_token") else prompt_format.eos
    settings_path.write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")
    _set_end_token(output, prompt_format.eos)


def _self_contained(prompt_format: PromptFormat) -> str:
    """The template; where it was used without a first token, also for runtimes whose tokenizer has one."""
    if prompt_format.bos is None and _prints(prompt_format, "bos_token"):
        return "{% set bos_token = '' %}" + prompt_format.template
    return prompt_format.template


def _prints(prompt_format: PromptFormat, variable: str) -> bool:
    return variable in prompt_format.template


def _set_end_token(output: Path, eos: str) -> None:
    """The id of the token that ends an answer, wherever a runtime looks for it."""
    import tokenizers

    if not (output / "tokenizer.json").is_file():
        return
    token_id = tokenizers.Tokenizer.from_file(str(output / "tokenizer.json")).token_to_id(eos)
    if token_id is None:
        raise BadInput(
            f"The tokenizer has no token {eos!r}, with which the prompt format ends an answer.",
            next="Train with a prompt format that belongs to this base model.",
        )
    for name in ("config.json", "generation_config.json"):
        path = output / name
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            record["eos_token_id"] = token_id
            path.write_text(json.dumps(record, ensure_ascii=False, indent=2), encoding="utf-8")


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
