"""The last step of an export: files get their names, the store learns of them, Modelfile and card are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import NotSupported
from tunesmith.export.modelfile import default_parameters, modelfile
from tunesmith.export.records import Divergence, ExportedFile, ExportResult, MatrixTrial, StopRate, VerifiedOn
from tunesmith.files import fsync_path, write_atomic
from tunesmith.models.bases import base_config
from tunesmith.models.card import CARD, write_card
from tunesmith.models.embedded import gguf_path
from tunesmith.models.licences import licence_of
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelFile, ModelRecord
from tunesmith.models.references import EMBEDDED
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.workspace import Workspace

MODELFILE, ADAPTER_MODELFILE = "Modelfile", "Modelfile.adapter"
KEPT_FACTS = ("merge_kld", "trained_kld", "stop_rate", "tokenizer_texts", "verified_on", "llama_cpp")
FIGURES = ("mean_kld", "p99_kld", "same_top_token", "perplexity_ratio")


@dataclass(frozen=True)
class MadeFile:
    """A GGUF under its temporary name."""

    path: Path  # its name is the one it will have
    quantization: str
    quality: Divergence | None = None
    importance: MatrixTrial | None = None
    adapter_kept: float | None = None


@dataclass(frozen=True)
class Made:
    """Everything an export made, checked and ready to be shown."""

    kind: Literal["gguf", "lora_gguf"]
    files: list[MadeFile]
    merged: Path | None = None  # merged weights, where they are new
    merge_kld: float | None = None
    trained_kld: float | None = None
    stop_rate: StopRate | None = None
    tokenizer_texts: int = 0
    verified_on: VerifiedOn | None = None
    notes: list[str] = field(default_factory=list)


def hand_out(
    workspace: Workspace, record: ModelRecord, made: Made, *, lineage: Sequence[Mapping[str, Any]], llama_cpp: str
) -> ExportResult:
    """Show what was made. Until here the model's folder holds nothing new that anybody sees.

    Args:
        lineage: the dataset and its parents, for the card.
        llama_cpp: where the tools came from.
    """
    store = ModelStore(workspace)
    folder = store.folder(record.model_id)
    prompt_format = PromptFormat.from_record(record.prompt_format)
    entries: list[ModelFile] = []
    if made.merged is not None:
        _put(made.merged, folder / "merged")
        entries.append(describe_file(folder, folder / "merged", "merged"))
    files: list[ExportedFile] = []
    for file in made.files:
        target = folder / file.path.name
        _put(file.path, target)
        entry = describe_file(folder, target, made.kind, file.quantization)
        entries.append(entry)
        quality = file.quality.model_dump(include=set(FIGURES)) if file.quality else dict.fromkeys(FIGURES)
        files.append(
            ExportedFile(
                quantization=file.quantization,
                path=str(target),
                bytes=entry.bytes,
                sha256=entry.sha256,
                importance=file.importance,
                adapter_kept=file.adapter_kept,
                **quality,
            )
        )
    written = _write_modelfile(workspace, record, made, folder)
    if written is not None:
        entries.append(describe_file(folder, written, "modelfile"))
    result = ExportResult(
        model_id=record.model_id,
        files=files,
        merge_kld=made.merge_kld,
        trained_kld=made.trained_kld,
        stop_rate=made.stop_rate,
        tokenizer_parity=True if made.tokenizer_texts else None,
        tokenizer_texts=made.tokenizer_texts,
        prompt_format_sha256=prompt_format.sha256,
        verified_on=made.verified_on,
        modelfile=str(written) if written else None,
        card=str(folder / CARD),
        llama_cpp=llama_cpp,
        notes=made.notes,
    )
    record = store.update(
        record.model_id,
        add_files=[entry.model_copy(update={"facts": _facts(result, entry)}) for entry in entries],
        lineage=lineage,
        base_licence=licence_of(workspace, record.base_model),
    )
    write_card(workspace, record)
    return result


def _facts(result: ExportResult, entry: ModelFile) -> dict[str, Any]:
    """What the export found out about one file, to be kept with it: a later export says nothing of it."""
    made = next((file for file in result.files if file.sha256 == entry.sha256), None)
    if entry.kind not in ("gguf", "lora_gguf") or made is None:
        return {}
    whole = result.model_dump(mode="json", include=set(KEPT_FACTS))
    own = made.model_dump(mode="json", exclude={"quantization", "path", "bytes", "sha256"})
    return {name: value for name, value in {**whole, **own}.items() if value is not None}


def model_parameters(workspace: Workspace, record: ModelRecord) -> dict[str, Any]:
    """The parameters a model is served with unless the caller says otherwise: num_ctx is the trained length."""
    context = base_config(workspace, record.base_model).get("max_position_embeddings")
    return default_parameters(record.recipe.get("max_length"), context if isinstance(context, int) else None)


def _write_modelfile(workspace: Workspace, record: ModelRecord, made: Made, folder: Path) -> Path | None:
    prompt_format = PromptFormat.from_record(record.prompt_format)
    base: str | None = None
    if made.kind == "lora_gguf":
        if record.base_model != EMBEDDED:
            made.notes.append(
                "An adapter needs its base. register_ollama(quantization='adapter') makes a GGUF of the base once, "
                "and a Modelfile with FROM and ADAPTER; quantization='adapter@NAME' takes a base that Ollama has."
            )
            return None
        base = str(gguf_path())
    try:
        template = prompt_format.ollama_template()
    except NotSupported as error:
        # The GGUF is as good without: every other runtime reads the chat template inside it.
        made.notes.append(f"No Modelfile was written. {error.message}")
        return None
    path = folder / (ADAPTER_MODELFILE if base else MODELFILE)
    text = modelfile(
        made.files[0].path.name,
        base=base,
        template=template,
        stops=prompt_format.stops,
        parameters=model_parameters(workspace, record),
        comment=f"{record.name} ({record.model_id}). To use it by hand: ollama create NAME -f {path.name}",
    )
    write_atomic(path, text)
    return path


def _put(source: Path, target: Path) -> None:
    """Give a finished file or folder its name, after it is on the disk."""
    for path in [source] if source.is_file() else source.rglob("*"):
        if path.is_file():
            fsync_path(path)
    if target.is_dir():
        # A folder cannot be replaced in one step; the old one goes with the temporary files.
        target.rename(source.parent / f"old-{target.name}")
    source.replace(target)
