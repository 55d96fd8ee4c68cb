"""From a model reference to something that can be served: files, prompt format, tokenizer. Loads no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import Conflict, MissingExtra, StoreCorrupt
from tunesmith.models.bases import base_folder, prompt_format_for, tokenizer_for
from tunesmith.models.embedded import gguf_path
from tunesmith.models.endpoints import Turn
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.references import Reference, parse_reference
from tunesmith.models.servable import choose_gguf, prompt_ids, trained_tokenizer
from tunesmith.models.serving import can_serve
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EMBEDDED_FILE = "SmolLM2-135M-Instruct Q4_1"


@dataclass(frozen=True)
class Contestant:
    """A model that is ready to be started.

    Attributes:
        label: its name in the report.
        reference: what was asked for.
        way: gguf (llama.cpp), torch (transformers) or endpoint.
        gguf: the file, for gguf.
        base_model: reference of the base, for gguf and torch.
        adapter: folder of the LoRA adapter; None for a base.
        weights: folder of whole weights that are not the base's: a model without an adapter.
        prompt_format: how messages become its text; None for an endpoint.
        record: of a model trained here.
        served: how it is run, for the report.
        identity: what exactly answers; changes when the files do.
    """

    label: str
    reference: Reference
    way: Literal["gguf", "torch", "endpoint"]
    workspace: Workspace
    served: str
    identity: str
    gguf: Path | None = None
    base_model: str | None = None
    adapter: Path | None = None
    weights: Path | None = None
    prompt_format: PromptFormat | None = None
    record: ModelRecord | None = None

    @property
    def has_weights(self) -> bool:
        """Whether a held-out loss can be measured."""
        return self.way != "endpoint"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer. Only for local models."""
        if self.record is not None:
            return trained_tokenizer(self.workspace, self.record)
        assert self.base_model is not None
        return tokenizer_for(self.workspace, self.base_model)

    def encode(self, messages: Sequence[Turn]) -> list[int]:
        """Token ids of the prompt that asks for the next answer; see `prompt_ids`."""
        assert self.prompt_format is not None
        return prompt_ids(self.prompt_format, self.tokenizer, messages)

    def weights_folder(self) -> Path:
        """The folder that transformers loads; the base's may be built or found in a cache first."""
        if self.weights is not None:
            return self.weights
        assert self.base_model is not None
        return base_folder(self.workspace, self.base_model)


def contestant(workspace: Workspace, label: str, model: str) -> Contestant:
    """Find what a reference names.

    Raises:
        InvalidArgument, NotFound, PathRefused: no such model.
        Conflict: a model without any file to run.
        MissingExtra: what runs it is not installed.
    """
    reference = parse_reference(model, workspace)
    if reference.kind in ("run", "model"):
        return _trained(workspace, label, reference)
    if reference.kind == "embedded":
        return _embedded(workspace, label, reference)
    if reference.kind in ("ollama", "openai"):
        served = f"{reference.kind}:{reference.name}" + (f" at {reference.base_url}" if reference.base_url else "")
        return Contestant(label, reference, "endpoint", workspace, served, f"{served}")
    _need_torch()
    return Contestant(
        label,
        reference,
        "torch",
        workspace,
        f"{reference.name} by transformers",
        f"{reference.kind}:{reference.name}",
        base_model=reference.text.strip(),
        prompt_format=prompt_format_for(workspace, reference.text.strip()),
    )


def _embedded(workspace: Workspace, label: str, reference: Reference) -> Contestant:
    common: dict[str, Any] = {
        "base_model": "embedded",
        "prompt_format": prompt_format_for(workspace, "embedded"),
        "workspace": workspace,
    }
    if not can_serve():
        _need_torch()
        return Contestant(
            label, reference, "torch", served=f"{EMBEDDED_FILE}, dequantised, by transformers", identity="embedded",
            **common,
        )  # fmt: skip
    return Contestant(
        label, reference, "gguf", served=f"{gguf_path().name} by llama.cpp", identity=f"embedded:{gguf_path().name}",
        gguf=gguf_path(), **common,
    )  # fmt: skip


def _trained(workspace: Workspace, label: str, reference: Reference) -> Contestant:
    record = ModelStore(workspace).resolve(reference.name)
    folder = workspace.models / record.model_id
    adapter, whole = record.file("adapter"), record.file("weights") or record.file("merged")
    file = choose_gguf(record.files) if can_serve() else None
    chosen = file or adapter or whole
    if chosen is None:
        raise Conflict(
            f"Model {record.model_id} has neither a GGUF nor an adapter nor whole weights to run.",
            next=f"Call export_gguf with model='{record.model_id}'.",
        )
    for needed in (file, adapter, whole):
        if needed is not None and not (folder / needed.path).exists():
            raise StoreCorrupt(
                f"{needed.path} of model {record.model_id} is missing from {folder}.",
                next="Restore it from a copy, or call export_gguf or start_training again.",
            )
    if file is None:
        _need_torch()
    kind = {"adapter": "adapter", "weights": "trained weights"}.get(chosen.kind, "merged weights")
    return Contestant(
        label,
        reference,
        "gguf" if file else "torch",
        workspace,
        f"{Path(file.path).name} by llama.cpp" if file else f"{kind} by transformers",
        f"{record.model_id}:{chosen.sha256}",
        gguf=folder / file.path if file else None,
        base_model=record.base_model,
        adapter=folder / adapter.path if adapter else None,
        weights=folder / whole.path if whole and not adapter else None,
        prompt_format=PromptFormat.from_record(record.prompt_format),
        record=record,
    )


def _need_torch() -> None:
    for package in ("torch", "transformers", "peft"):
        if find_spec(package) is None:
            raise MissingExtra(package, extra="train", purpose="run a model that is not exported as GGUF")
