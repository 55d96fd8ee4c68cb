"""Hugging Face weights to GGUF with llama.cpp's converters, and GGUF to a coarser GGUF."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from tunesmith.errors import BadInput, CheckFailed, DiskFull, MissingExtra, OutOfMemory, UserError
from tunesmith.export import convert_child
from tunesmith.export.child import Child, ChildFailed, run_child
from tunesmith.export.llama_job import run_job
from tunesmith.export.quantizations import QUANTIZATIONS
from tunesmith.export.quantizer_parameters import pattern
from tunesmith.machine.records import LlamaCpp
from tunesmith.models.pre_tokenizer import by_rules
from tunesmith.models.tokenizer_files import runtime_name

# The converters read only what lies in the folders they are given.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
SPARE_BYTES = 64 * 2**20
MAGIC = b"GGUF"
# The user's own converter brings its own gguf library beside it; the script puts it on its path itself.
# What else lies beside it, it imports by the folder it lies in, which a run's environment would keep from it.
CONVERTERS = {**OFFLINE, "PYTHONSAFEPATH": ""}

Check = Callable[[], None]


class Converter:
    """llama.cpp's converter, whose imports are under way from the beginning; leaving the `with` block ends it."""

    def __init__(self, tools: LlamaCpp) -> None:
        self._tools = tools
        self._child = self._start() if tools.converter else None
        self._under_way: tuple[Path, Path] | None = None  # from, to

    def __enter__(self) -> Converter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.end()

    def begin(self, weights: Path, output: Path, outtype: str, *, name: str) -> None:
        """Begin to write the model in the folder `weights` (config, safetensors, tokenizer) as one GGUF.

        Args:
            outtype: f16, bf16 or f32.
            name: the model's name, kept inside the file.

        Raises:
            MissingExtra: there is no converter.
        """
        tokenizer = weights / "tokenizer.json"
        arguments = [weights, "--outfile", output, "--outtype", outtype, "--model-name", runtime_name(name, tokenizer)]
        # Asked first, the converter names the tokenizers that it knows; the rules speak for the others.
        rules = by_rules(tokenizer) if tokenizer.is_file() else None
        self._child = self._child or self._start()
        self._child.tell(json.dumps({"arguments": [str(part) for part in arguments], "pre_tokenizer": rules}))
        self._under_way = weights, output

    def finish(self, check: Check) -> None:
        """Wait for what was begun.

        Raises:
            BadInput: the converter does not know the model or its tokenizer.
            CheckFailed: it failed otherwise; the error holds the end of its output.
        """
        assert self._child is not None
        assert self._under_way is not None
        (weights, output), self._under_way = self._under_way, None
        child, self._child = self._child, None
        with child, _explained(f"the model in {weights.name}"):
            child.finish(check)
        _check_whole(output, f"converting the model in {weights.name}")

    def _start(self) -> Child:
        converter = _needed(self._tools.converter, "convert the model to GGUF")
        command = [sys.executable, "-P", convert_child.__file__, converter]
        return Child(command, environment=CONVERTERS, told=True)


def convert(tools: LlamaCpp, weights: Path, output: Path, outtype: str, *, name: str, check: Check) -> None:
    """One conversion by itself: `Converter.begin` and `Converter.finish`."""
    with Converter(tools) as converter:
        converter.begin(weights, output, outtype, name=name)
        converter.finish(check)


def convert_adapter(tools: LlamaCpp, adapter: Path, base: Path, output: Path, outtype: str, *, check: Check) -> None:
    """Write a PEFT adapter as a GGUF LoRA. Of `base` only the configuration is read.

    Raises: as `convert`.
    """
    converter = _needed(tools.lora_converter, "convert the adapter to GGUF")
    command = [sys.executable, converter, "--base", base, "--outfile", output, "--outtype", outtype, adapter]
    with _explained("the adapter"):
        run_child(command, check=check, environment=CONVERTERS)
    _check_whole(output, "converting the adapter")


def quantise(
    tools: LlamaCpp,
    source: Path,
    output: Path,
    quantization: str,
    *,
    check: Check,
    matrix: Path | None = None,
    types: Mapping[str, str] | None = None,
) -> None:
    """Write the 16-bit GGUF `source` in a coarser precision.

    Uses the user's own `llama-quantize` when there is one, else the packaged library, in a child process.

    Args:
        matrix: an importance matrix, as `importance.collect` writes it.
        types: tensor → GGML type such as Q5_0, where it is not to be llama.cpp's choice.

    Raises:
        MissingExtra: there is neither.
        CheckFailed: it failed; the error holds the end of its output.
    """
    quantizer = _needed(tools.quantizer, "quantise the model")
    try:
        if quantizer.startswith("package:"):
            ftype = QUANTIZATIONS[quantization].ftype
            order = {"input": str(source), "output": str(output), "ftype": ftype, "threads": threads()}
            more = {"matrix": str(matrix) if matrix else None, "types": dict(types or {})}
            run_job("quantise", {**order, **more}, check=check)
        else:
            guide: list[str | Path] = ["--imatrix", matrix] if matrix else []
            for tensor, kind in (types or {}).items():
                guide += ["--tensor-type", f"{pattern(tensor)}={kind.lower()}"]
            run_child([quantizer, *guide, source, output, quantization.upper(), str(threads())], check=check)
    except ChildFailed as failure:
        raise failed(failure, f"quantising to {quantization}") from failure
    _check_whole(output, f"quantising to {quantization}")


def check_architecture(tools: LlamaCpp, config: Mapping[str, object]) -> None:
    """Refuse a model that the converter has no code for, before hours go into merging it.

    The converter's own source names what it can convert; where it names nothing of the kind, it is left to say so.

    Args:
        config: the model's config.json.

    Raises:
        BadInput: it does not know the architecture; names the nearest that it knows.
    """
    listed = config.get("architectures")
    if tools.converter is None or not isinstance(listed, list) or not listed:
        return
    script = Path(tools.converter)
    sources = [script, *sorted((script.parent / "conversion").glob("*.py"))]
    text = "".join(source.read_text(encoding="utf-8", errors="replace") for source in sources if source.is_file())
    known = set(re.findall(r"""["'](\w+(?:ForCausalLM|LMHeadModel|ForConditionalGeneration))["']""", text))
    name = str(listed[0])
    if not known or f'"{name}"' in text or f"'{name}'" in text:
        return
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.0)
    raise BadInput(
        f"The converter does not know the architecture {name[:80]}; the nearest that it knows is {near[0]}.",
        next="Set LLAMA_CPP_DIR to a newer llama.cpp, or train on a base that it supports.",
    )


def check_space(folder: Path, wanted: Mapping[str, int]) -> None:
    """Refuse to begin what cannot be finished.

    Args:
        folder: where the files will lie.
        wanted: what → bytes.

    Raises:
        DiskFull: says what needs how much.
    """
    free = shutil.disk_usage(folder).free
    total = sum(wanted.values()) + SPARE_BYTES
    if total > free:
        parts = ", ".join(f"{what} {size / 2**20:,.0f} MiB" for what, size in wanted.items())
        raise DiskFull(
            f"The export needs about {total / 2**20:,.0f} MiB in {folder} ({parts}); {free / 2**20:,.0f} MiB are free.",
            next="Free some space or ask for fewer quantizations, and call again.",
        )


def space_wanted(parameters: int, merged_bytes: int, quantizations: Sequence[str], reference: int) -> dict[str, int]:
    """Bytes that an export writes, by what: for `check_space`.

    Args:
        parameters: number of weights.
        merged_bytes: size of the merged weights; 0 when they are there already.
        reference: size of the recorded distributions; 0 without verification.
    """
    wanted = {"merged weights": merged_bytes, "f16": parameters * 2, "distributions": reference}
    sizes = {name: int(parameters * QUANTIZATIONS[name].bits / 8) for name in quantizations if name != "f16"}
    wanted |= sizes
    # A second try lies beside the first: with an importance matrix, if it can be measured, or with other types.
    tried = [
        size
        for name, size in sizes.items()
        if QUANTIZATIONS[name].falls_back or (reference and QUANTIZATIONS[name].guided)
    ]
    wanted["a second try"] = max(tried, default=0)
    return {what: size for what, size in wanted.items() if size}


def threads() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _needed(tool: str | None, purpose: str) -> str:
    if tool is None:
        raise MissingExtra("llama.cpp", extra="embedded", purpose=f"{purpose} (or set LLAMA_CPP_DIR to your own)")
    return tool


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """A converter's failure in words."""
    try:
        yield
    except ChildFailed as failure:
        if "pre-tokenizer was not recognized" in failure.tail:
            raise BadInput(
                f"The converter does not recognise the tokenizer of {what}, so the GGUF would split text differently "
                f"from the model that was trained. It said: {_last_line(failure.tail)}",
                next="Train on a base whose tokenizer is unchanged, or set LLAMA_CPP_DIR to a newer llama.cpp "
                "that knows this tokenizer.",
            ) from failure
        if "is not supported" in failure.tail:
            raise BadInput(
                f"The converter does not know the architecture of {what}. It said: {_last_line(failure.tail)}",
                next="Set LLAMA_CPP_DIR to a newer llama.cpp, or train on a base that it supports.",
            ) from failure
        missing = re.search(r"No module named '([\w.]+)'", failure.tail)
        if missing:
            raise MissingExtra(missing[1], extra="embedded", purpose=f"convert {what}") from failure
        raise failed(failure, f"converting {what}") from failure


def failed(failure: ChildFailed, doing: str) -> UserError:
    """The error of a program that ended badly while `doing` something."""
    if failure.code == -9:
        return OutOfMemory(
            f"The program for {doing} {failure.how}. It said:\n{failure.tail}",
            next="Close other programs, or export on a machine with more memory.",
        )
    if "No space left on device" in failure.tail:
        return DiskFull(f"There was no room left while {doing}.", next="Free some space and call again.")
    return CheckFailed(
        f"The program for {doing} {failure.how}. It said:\n{failure.tail}",
        next="Mend what the last line names and call again; the run's log has the rest.",
    )


def _last_line(tail: str) -> str:
    return tail.splitlines()[-1][:300] if tail else "nothing"


def _check_whole(output: Path, doing: str) -> None:
    """A program that ends well and leaves no GGUF has failed all the same."""
    if output.is_file():
        with output.open("rb") as file:
            if file.read(4) == MAGIC:
                return
    raise CheckFailed(f"The program for {doing} ended well and left no GGUF.", next="Look at the run's log.")
