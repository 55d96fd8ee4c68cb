"""From a trained model to GGUF files that were checked: merge, convert, quantise, compare, then show.

Everything is made under a temporary name inside the model's folder. Files get
their names, and the store learns of them, only after every check has passed.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import BadInput, MissingExtra, NotSupported
from tunesmith.export import gguf
from tunesmith.export.adapter_check import check_adapter
from tunesmith.export.handing_out import Made, MadeFile, hand_out
from tunesmith.export.held_out import token_rows
from tunesmith.export.importance import ENOUGH_TOKENS
from tunesmith.export.making import FileMaker
from tunesmith.export.merge import check_base, merge, record_whole
from tunesmith.export.quality import Reference, TokenRow, judge_merge
from tunesmith.export.quantizations import QUANTIZATIONS, check_quantizations
from tunesmith.export.records import ExportResult, StopRate, VerifiedOn
from tunesmith.export.stopping import LARGE_BYTES, ask, questions
from tunesmith.export.stopping import judge as judge_stopping
from tunesmith.export.tokenizer_parity import check_tokenizer
from tunesmith.files import TEMPORARY_PREFIX, raise_if_disk_full
from tunesmith.machine.llama_cpp import find_llama_cpp
from tunesmith.machine.records import LlamaCpp
from tunesmith.models.bases import base_config, base_folder
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.models.tokenizer_files import has_tokenizer, read_tokenizer
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    import tokenizers

MERGED_FACTS = "merge.json"  # in merged/: which adapter it was made from, and how far it is from it

Progress = Callable[[str, int, int], None]  # what is being done, its number, how many there are
STALE_S = 24 * 3600  # what a killed export left is removed by a later one


@dataclass(frozen=True)
class HeldOut:
    """Conversations to verify on, and where they come from.

    Attributes:
        training: conversations that the model was trained on and that are not verified on: they show how long an
            answer may be, and which weights matter. May be empty.
    """

    conversations: Sequence[Sequence[Any]]
    split: Literal["eval", "dataset", "builtin"]
    training: Sequence[Sequence[Any]] = ()


@dataclass(frozen=True)
class _Weights:
    """The 16- or 32-bit weights that files are made from.

    Attributes:
        reference: their distributions on the held-out rows; None without rows.
        merge_kld: their divergence from base plus adapter; None where nothing was merged or compared.
        trained_kld: divergence of 16-bit base plus adapter from the 4-bit base plus adapter that was trained.
        base: folder of what an adapter was merged into; None where nothing was merged.
    """

    folder: Path
    reference: Reference | None
    merge_kld: float | None = None
    trained_kld: float | None = None
    base: Path | None = None


@dataclass
class _Export:
    """One export under way."""

    workspace: Workspace
    record: ModelRecord
    tools: LlamaCpp
    progress: Progress
    check: Callable[[], None]
    held_out: HeldOut | None
    steps: int
    step: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = ModelStore(self.workspace)
        self.folder = self.store.folder(self.record.model_id)
        self.whole = self.record.method == "full"
        self.trained = self.folder / ("weights" if self.whole else "adapter")
        self.prompt_format = PromptFormat.from_record(self.record.prompt_format)
        if not self.trained.is_dir():
            raise BadInput(
                f"What was trained of {self.record.model_id} is not where it was saved ({self.trained}).",
                next="Restore that folder from a copy, or train again.",
            )

    def say(self, message: str) -> None:
        """Tell what is being done now."""
        self.step = min(self.step + 1, self.steps)
        self.progress(message, self.step, self.steps)

    def file_name(self, quantization: str, *, adapter: bool = False) -> str:
        """A name for people, made of harmless characters only."""
        stem = re.sub(r"[^a-z0-9]+", "-", self.record.name.lower()).strip("-")[:40].rstrip("-") or "model"
        return f"{stem}-{'adapter-' if adapter else ''}{quantization}.gguf"


def export_model(
    workspace: Workspace,
    model_id: str,
    *,
    quantizations: Sequence[str] | None = None,
    adapter_only: bool = False,
    held_out: HeldOut | None = None,
    lineage: Sequence[Mapping[str, Any]] = (),
    progress: Progress = lambda message, step, steps: None,
    check: Callable[[], None] = lambda: None,
) -> ExportResult:
    """Make GGUF files of a trained model.

    Args:
        quantizations: see `check_quantizations`.
        adapter_only: write the adapter alone, as a GGUF LoRA for its base.
        held_out: what to verify on; None: the figures stay null. The tokenizer is checked in any case.
        lineage: the dataset and its parents, for the card.
        progress: called with what is being done, its number and how many there are, about.
        check: called often; raises when the run was cancelled.

    Raises:
        NotFound, InvalidArgument: no such model, no such quantization.
        NotSupported: the base is quantised, or there is no adapter to export alone.
        DiskFull: it would not fit, or did not.
        CheckFailed: a check failed; nothing was handed out.
        MissingExtra: a part of llama.cpp is missing.
    """
    names = check_quantizations(quantizations, adapter_only=adapter_only)
    record = ModelStore(workspace).get(model_id)
    # Base, merge, convert, tokenizer, hand out; each file is quantised and measured, a coarse one twice; one is asked.
    steps = 1 + len(names) if adapter_only else 5 + len(names) * (2 if held_out else 1) + bool(held_out)
    if held_out and held_out.training and not adapter_only:
        tried = [name for name in names if QUANTIZATIONS[name].guided]
        steps += bool(tried) + 2 * len(tried)
    export = _Export(workspace, record, find_llama_cpp(), progress, check, held_out, steps)
    with _scratch(export.folder) as scratch:
        made = _adapter_files(export, names, scratch) if adapter_only else _model_files(export, names, scratch)
        check()
        export.say("Handing out the files")
        return hand_out(workspace, record, made, lineage=lineage, llama_cpp=export.tools.source or "")


def _model_files(export: _Export, names: Sequence[str], scratch: Path) -> Made:
    base = _base_of(export)
    tokenizer = _tokenizer(export, base)
    rows = [] if tokenizer is None else _rows(export, tokenizer)
    kept = None if export.whole else _kept_merged(export, needs_figure=bool(rows))
    _refuse_full_disk(export, base, names, rows, merged_exists=export.whole or kept is not None)
    with gguf.Converter(export.tools) as converter:
        first = "bf16" if names[0] == "bf16" else "f16"
        # While the weights of a small model are compared, mostly on all cores, they are converted on one. Of a large
        # one both take gigabytes, and come one after the other.
        begun = scratch / export.file_name(first) if _weight_bytes(base) < LARGE_BYTES else None

        def begin(folder: Path) -> None:
            if begun is not None:
                converter.begin(folder, begun, first, name=export.record.name)

        weights = _merged_weights(export, base, rows, scratch, kept=kept, written=begin)
        maker = _maker(export, weights, tokenizer, converter, scratch)
        maker.begun = begun
        return _files_of(export, maker, weights, names, tokenizer)


def _files_of(
    export: _Export,
    maker: FileMaker,
    weights: _Weights,
    names: Sequence[str],
    tokenizer: tokenizers.Tokenizer | None,
) -> Made:
    scratch = maker.scratch
    texts = 0
    files: list[MadeFile] = []
    for name in names:
        path = scratch / export.file_name(name)
        if name == "bf16":
            maker.convert(path, "bf16")
        source = path if name == "bf16" else maker.source(scratch / export.file_name("f16"))
        if not texts:
            texts = _check_tokenizer(export, source, weights.folder)
        sixteen = name in ("f16", "bf16")
        files.append(maker.measure(path, name) if sixteen else maker.quantise(source, path, name))
    stop_rate = None if tokenizer is None else _ask(export, files, tokenizer)
    return Made(
        kind="gguf",
        files=files,
        merged=weights.folder if weights.folder.parent == scratch else None,
        merge_kld=weights.merge_kld,
        trained_kld=weights.trained_kld,
        stop_rate=stop_rate,
        tokenizer_texts=texts,
        verified_on=_verified_on(export, weights.reference),
        notes=export.notes,
    )


def _maker(
    export: _Export,
    weights: _Weights,
    tokenizer: tokenizers.Tokenizer | None,
    converter: gguf.Converter,
    scratch: Path,
) -> FileMaker:
    calibration: list[TokenRow] = []
    if tokenizer is not None and export.held_out is not None:
        calibration = token_rows(
            export.held_out.training,
            export.prompt_format,
            tokenizer,
            max_tokens=ENOUGH_TOKENS,
            max_positions=ENOUGH_TOKENS,
        )
    return FileMaker(
        tools=export.tools,
        converter=converter,
        weights=weights.folder,
        base=weights.base,
        kind="trained" if export.whole else "merged",
        name=export.record.name,
        reference=weights.reference,
        calibration=calibration,
        scratch=scratch,
        say=export.say,
        check=export.check,
        notes=export.notes,
    )


def _ask(export: _Export, files: Sequence[MadeFile], tokenizer: tokenizers.Tokenizer) -> StopRate | None:
    """The stop test, on the coarsest file: what ends there ends in the finer ones."""
    assert export.held_out is not None
    what = questions(export.held_out.conversations, export.held_out.training, export.prompt_format, tokenizer)
    coarsest = min(files, key=lambda file: QUANTIZATIONS[file.quantization].bits)
    export.say(f"Seeing whether {coarsest.quantization} ends its answers")
    found = ask(coarsest.path, coarsest.quantization, what, check=export.check)
    if found is None:
        if what.prompts:
            export.notes.append("Whether the model ends its answers was not seen: this machine is too slow for it.")
        return None
    note = judge_stopping(found)
    if note is not None:
        export.notes.append(note)
    return found


def _adapter_files(export: _Export, names: Sequence[str], scratch: Path) -> Made:
    if export.whole:
        raise NotSupported(
            f"{export.record.model_id} was trained with method full: it has no adapter.",
            next="Call export_gguf without adapter_only.",
        )
    base = base_folder(export.workspace, export.record.base_model)
    size = _weight_bytes(export.trained)
    gguf.check_space(export.folder, {f"adapter as {name}": size for name in names})
    files: list[MadeFile] = []
    for name in names:
        path = scratch / export.file_name(name, adapter=True)
        export.say(f"Converting the adapter to GGUF ({name})")
        gguf.convert_adapter(export.tools, export.trained, base, path, name, check=export.check)
        if export.held_out is not None:
            check_adapter(path, export.trained, name)
        files.append(MadeFile(path, name))
    told = f"The adapter as safetensors, for PEFT on the 16-bit {export.record.base_model}, is in {export.trained}."
    return Made(kind="lora_gguf", files=files, notes=[told])


def _base_of(export: _Export) -> Path:
    if export.whole:
        return export.trained
    config = base_config(export.workspace, export.record.base_model)
    check_base(config, export.record.base_model)
    gguf.check_architecture(export.tools, config)
    export.say("Finding the base model")
    return base_folder(export.workspace, export.record.base_model)


def _tokenizer(export: _Export, base: Path) -> tokenizers.Tokenizer | None:
    """The model's tokenizer; None when nothing is verified."""
    if export.held_out is None:
        return None
    if export.tools.quantizer is None:
        raise MissingExtra("cyllama", extra="embedded", purpose="verify GGUF files")
    return read_tokenizer(next((folder for folder in (export.trained, base) if has_tokenizer(folder)), base))


def _rows(export: _Export, tokenizer: tokenizers.Tokenizer) -> list[TokenRow]:
    assert export.held_out is not None
    return token_rows(export.held_out.conversations, export.prompt_format, tokenizer)


def _kept_merged(export: _Export, *, needs_figure: bool) -> dict[str, Any] | None:
    """What is known of merged weights that an earlier export left, if they can be used again."""
    entry = export.record.file("merged")
    folder = export.folder / "merged"
    if entry is None or not (folder / MERGED_FACTS).is_file():
        return None
    facts = json.loads((folder / MERGED_FACTS).read_text(encoding="utf-8"))
    if facts["adapter_sha256"] != describe_file(export.folder, export.trained, "adapter").sha256:
        return None
    if needs_figure and facts["verified"] is False:
        return None
    # Whatever changed there since, it is not what was checked.
    return facts if describe_file(export.folder, folder, "merged").sha256 == entry.sha256 else None


def _merged_weights(
    export: _Export,
    base: Path,
    rows: Sequence[TokenRow],
    scratch: Path,
    *,
    kept: dict[str, Any] | None,
    written: Callable[[Path], None],
) -> _Weights:
    """Merged now or by an earlier export. Where every weight was trained: the folder that training left.

    Args:
        written: told the folder as soon as the weights are in it; they are compared after that.
    """
    if export.whole or kept is not None:
        folder = base if kept is None else export.folder / "merged"
        export.say("Reading the trained weights" if export.whole else "Reading the merged weights")
        written(folder)
        reference = record_whole(folder, rows, scratch, export.check, export.notes) if rows else None
        figures = kept or {}
        merged_into = None if export.whole else base
        return _Weights(folder, reference, figures.get("merge_kld"), figures.get("trained_kld"), merged_into)
    folder = scratch / "merged"
    folder.mkdir()
    export.say("Merging the adapter into its base")
    made = merge(
        base,
        export.trained,
        folder,
        prompt_format=export.prompt_format,
        rows=rows,
        scratch=scratch,
        check=export.check,
        written=lambda: written(folder),
        trained_in=export.record.training.get("dtype") if export.record.method == "qlora" else None,
    )
    export.notes.extend(made.notes)
    if made.divergence is not None:
        judge_merge(made.divergence)
    merge_kld = made.divergence.mean_kld if made.divergence else None
    trained_kld = made.trained.mean_kld if made.trained else None
    facts = {
        "adapter_sha256": describe_file(export.folder, export.trained, "adapter").sha256,
        "verified": bool(rows),
        "merge_kld": merge_kld,
        "trained_kld": trained_kld,
    }
    (folder / MERGED_FACTS).write_text(json.dumps(facts), encoding="utf-8")
    return _Weights(folder, made.reference, merge_kld, trained_kld, base)


def _check_tokenizer(export: _Export, path: Path, merged: Path) -> int:
    export.say("Comparing the tokenizers")
    conversations = export.held_out.conversations[:20] if export.held_out else ()
    return check_tokenizer(
        path,
        merged / "tokenizer.json",
        extra=[export.prompt_format.render(messages) for messages in conversations],
        end=export.prompt_format.eos,
        check=export.check,
        first=export.prompt_format.leading_bos,
    )


def _refuse_full_disk(
    export: _Export, base: Path, names: Sequence[str], rows: Sequence[TokenRow], *, merged_exists: bool
) -> None:
    weights = _weight_bytes(base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    bytes_each = 4 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    positions = sum(len(row.positions) for row in rows)
    recorded = 4 * positions * int(config.get("vocab_size") or 0) * (1 if merged_exists else 2)
    merged = 0 if merged_exists else weights
    gguf.check_space(export.folder, gguf.space_wanted(weights // bytes_each, merged, names, recorded))


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _verified_on(export: _Export, reference: Reference | None) -> VerifiedOn | None:
    if export.held_out is None or reference is None:
        return None
    return VerifiedOn(
        split=export.held_out.split,
        rows=len(reference.rows),
        tokens=sum(len(row.ids) for row in reference.rows),
        positions=sum(len(row.positions) for row in reference.rows),
    )


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside the model's files that is gone afterwards, whatever happened."""
    for old in folder.glob(f"{TEMPORARY_PREFIX}export-*"):
        if time.time() - old.stat().st_mtime > STALE_S:
            shutil.rmtree(old, ignore_errors=True)
    path = folder / f"{TEMPORARY_PREFIX}export-{secrets.token_hex(6)}"
    path.mkdir()
    try:
        yield path
    except OSError as error:
        raise_if_disk_full(error, path)
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)
