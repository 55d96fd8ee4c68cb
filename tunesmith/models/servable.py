"""What llama.cpp serves of a model: the GGUF, the prompt it was trained on, and the tokenizer it was trained with."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput, Conflict, InvalidArgument, MissingExtra, StoreCorrupt, UserError
from tunesmith.models.bases import TOKENIZER_FILE, prompt_format_for, tokenizer_for
from tunesmith.models.embedded import gguf_path
from tunesmith.models.prompt_format import PromptFormat, as_messages
from tunesmith.models.records import ModelFile, ModelRecord
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.models.references import Reference

# What people register and use comes first; see register_ollama's default.
QUANTIZATION_ORDER = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16", "bf16", "f32")


@dataclass(frozen=True)
class Servable:
    """A model that llama.cpp can serve.

    Attributes:
        gguf: the file.
        identity: what exactly answers: changes with the file.
        prompt_format: how messages become its text.
        record: of a model trained here; None for the embedded one.
        quantization: of the file.
    """

    workspace: Workspace
    gguf: Path
    identity: str
    prompt_format: PromptFormat
    record: ModelRecord | None
    quantization: str | None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own. Raises as `trained_tokenizer`."""
        if self.record is None:
            return tokenizer_for(self.workspace, "embedded")
        return trained_tokenizer(self.workspace, self.record)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, messages: Sequence[Any]) -> list[int]:
        """Token ids of the prompt that asks for the next answer; see `prompt_ids`."""
        return prompt_ids(self.prompt_format, self.tokenizer, messages)


def prompt_ids(prompt_format: PromptFormat, tokenizer: Tokenizer, messages: Sequence[Any]) -> list[int]:
    """Token ids of the prompt that asks for the next answer: the prompt format's text, nothing added.

    They are those that training put before such an answer. There each earlier answer was tokenised by itself, so that
    no token straddles its beginning or its end; so it is here.

    Raises:
        As `PromptFormat.render`.
    """
    text = prompt_format.render(messages, add_generation_prompt=True)
    pieces = _trained_pieces(prompt_format, messages, text)
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False).ids]


def _trained_pieces(prompt_format: PromptFormat, messages: Sequence[Any], text: str) -> list[str]:
    """`text`, cut where training cut it; whole where training would not have had it."""
    plain = as_messages(messages)
    if not any(message["role"] == "assistant" for message in plain):
        return [text]
    try:
        segments = prompt_format.segments([*plain, {"role": "assistant", "content": "Yes."}])
    except UserError:  # the template takes this conversation as a prompt only
        return [text]
    last = max((number for number, segment in enumerate(segments) if segment.trained), default=0)
    pieces = [segment.text for segment in segments[:last]]
    return pieces if "".join(pieces) == text else [text]


def servable(workspace: Workspace, reference: Reference, quantization: str | None = None) -> Servable:
    """Find what to serve. Loads no weights.

    Args:
        reference: of kind run, model or embedded.
        quantization: of the GGUF; default: the first there is in the order above.

    Raises:
        InvalidArgument: there is no GGUF of that quantization.
        NotFound, Conflict, StoreCorrupt: a model trained here that has no GGUF to serve.
        MissingExtra: the package of the embedded model is not installed.
    """
    if reference.kind == "embedded":
        path = gguf_path()
        if quantization is not None and not path.name.lower().endswith(f".{quantization.lower()}.gguf"):
            raise InvalidArgument(
                f"The embedded model is there as {path.stem.rpartition('.')[2].lower()} only.",
                next="Leave the quantization out.",
            )
        return Servable(
            workspace, path, f"embedded:{path.name}", prompt_format_for(workspace, "embedded"), None, "q4_1"
        )
    record = ModelStore(workspace).resolve(reference.name)
    file = trained_gguf(workspace, record, quantization)
    return Servable(
        workspace,
        workspace.models / record.model_id / file.path,
        f"{record.model_id}:{file.sha256}",
        PromptFormat.from_record(record.prompt_format),
        record,
        file.quantization,
    )


def trained_tokenizer(workspace: Workspace, record: ModelRecord) -> Tokenizer:
    """The tokenizer of a model trained here: the one that was kept with it, or else its base's.

    Raises:
        BadInput: the kept one cannot be read.
        MissingExtra: the library is not installed.
        As `tokenizer_for` where only the base has one.
    """
    for kind in ("adapter", "weights", "merged"):
        part = record.file(kind)
        path = workspace.models / record.model_id / part.path / TOKENIZER_FILE if part else None
        if path is not None and path.is_file():
            return _read_tokenizer(path)
    return tokenizer_for(workspace, record.base_model)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtra("tokenizers", extra="embedded", purpose="serve GGUF models") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for every malformed file
        raise BadInput(
            f"{path} is not a tokenizer: {error}.", next="Restore it from a copy, or train again."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def trained_gguf(workspace: Workspace, record: ModelRecord, quantization: str | None = None) -> ModelFile:
    """The GGUF by which a model trained here is served.

    Args:
        quantization: which one; default: the first there is in the order above.

    Raises:
        Conflict: it was not exported yet.
        InvalidArgument: not in that quantization.
        StoreCorrupt: it is listed and gone.
    """
    file = choose_gguf(record.files, quantization)
    if file is None and choose_gguf(record.files) is not None:
        there = [entry.quantization or "" for entry in record.files if entry.kind == "gguf"]
        near = difflib.get_close_matches(quantization or "", there, n=1)
        raise InvalidArgument(
            f"Model {record.model_id} has no GGUF of quantization {quantization!r}; it has {', '.join(there)}.",
            next=f"Use quantization {near[0] if near else there[0]!r}, or call export_gguf with "
            f"model='{record.model_id}' and quantizations=['{quantization}'].",
        )
    if file is None:
        raise Conflict(
            f"Model {record.model_id} has no GGUF to serve.",
            next=f"Call export_gguf with model='{record.model_id}'.",
        )
    if not (workspace.models / record.model_id / file.path).exists():
        raise StoreCorrupt(
            f"{file.path} of model {record.model_id} is missing from {workspace.models / record.model_id}.",
            next="Restore it from a copy, or call export_gguf again.",
        )
    return file


def choose_gguf(files: Sequence[ModelFile], quantization: str | None = None) -> ModelFile | None:
    """The GGUF to serve: of that quantization, or in the order above, else the first there is."""
    found = [file for file in files if file.kind == "gguf"]
    if quantization is not None:
        found = [file for file in found if file.quantization == quantization.strip().lower()]
    places = {name: place for place, name in enumerate(QUANTIZATION_ORDER)}
    return min(found, key=lambda file: places.get(file.quantization or "", len(places)), default=None)
