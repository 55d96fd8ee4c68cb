"""From a model reference to something that answers: an endpoint, or a GGUF served here for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import Conflict, InvalidArgument, NotSupported, StoreCorrupt
from tunesmith.models.bases import prompt_format_for, tokenizer_for
from tunesmith.models.embedded import gguf_path
from tunesmith.models.endpoints import ChatEndpoint, CompletionEndpoint, Turn, endpoint_for
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelFile, ModelRecord
from tunesmith.models.references import Reference, parse_reference
from tunesmith.models.serving import Served
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace

# What people register and use comes first; see register_ollama's default.
QUANTIZATION_ORDER = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16", "bf16", "f32")
REMOTE_TIMEOUT_S = 120.0
LOCAL_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Answering:
    """A model that answers now.

    Attributes:
        endpoint: what to ask.
        identity: what exactly answers: changes with the model's file or the endpoint's address.
        served: how it is run, for people.
        local: it is computed here, by this machine.
        died: how its server ended, with the end of its log; None while it runs, and for an endpoint.
    """

    endpoint: ChatEndpoint | CompletionEndpoint
    identity: str
    served: str
    local: bool
    died: Callable[[], str | None]


def answering_reference(workspace: Workspace, model: str, base_url: str | None = None) -> Reference:
    """Understand which model is to answer; contacts nothing and loads nothing.

    Args:
        model: a model reference; with `base_url` also the bare name of a model there.
        base_url: of an OpenAI-compatible endpoint.

    Raises:
        InvalidArgument: no model reference, two addresses, or no key and no address where one is needed.
        NotFound, Conflict, StoreCorrupt: a model trained here that has no GGUF to serve.
        NotSupported: a Hub id or a folder.
    """
    if base_url is not None:
        named = model.partition("@http")[0].strip()
        if named != model.strip() or named.lower().startswith("ollama:"):
            raise InvalidArgument(
                f"{model[:80]!r} says by itself where the model is, and base_url says so too.",
                next="Leave base_url out, or give model as openai:NAME.",
            )
        model = f"openai:{named.removeprefix('openai:')}@{base_url.strip()}"
    reference = parse_reference(model, workspace)
    if reference.kind == "openai":
        endpoint_for(reference, timeout_s=REMOTE_TIMEOUT_S).close()
    elif reference.kind in ("run", "model"):
        trained_gguf(workspace, ModelStore(workspace).resolve(reference.name))
    elif reference.kind == "embedded":
        gguf_path()
    elif reference.kind != "ollama":
        raise NotSupported(
            f"{reference.name[:80]!r} is not served by tunesmith; only models behind an endpoint and GGUF files are.",
            next="Serve it (Ollama, vLLM, llama-server) and give openai:NAME@http://host:port/v1 or ollama:NAME.",
        )
    return reference


@contextmanager
def answering(
    workspace: Workspace,
    reference: Reference,
    *,
    context: int,
    slots: int,
    log: Path | None = None,
    ollama_host: str | None = None,
) -> Iterator[Answering]:
    """The model, ready to be asked by several threads, for as long as the block lasts.

    Args:
        reference: as `answering_reference` returns it.
        context: tokens a request may take, prompt and answer together. Only for what is served here.
        slots: requests answered at once. Only for what is served here.
        log: file for the log of the server here.
        ollama_host: as in OLLAMA_HOST; default: that variable.

    Raises:
        As `answering_reference`, and `Served` for what is served here.
    """
    if reference.kind in ("openai", "ollama"):
        chat = endpoint_for(reference, timeout_s=REMOTE_TIMEOUT_S, ollama_host=ollama_host)
        name = f"{reference.kind}:{reference.name}"
        try:
            yield Answering(chat, f"{name}@{chat.base_url}", f"{name} at {chat.base_url}", False, lambda: None)
        finally:
            chat.close()
        return
    if reference.kind == "embedded":
        gguf, identity = gguf_path(), f"embedded:{gguf_path().name}"
        prompt_format, base = prompt_format_for(workspace, "embedded"), "embedded"
    else:
        record = ModelStore(workspace).resolve(reference.name)
        file = trained_gguf(workspace, record)
        gguf, identity = workspace.models / record.model_id / file.path, f"{record.model_id}:{file.sha256}"
        prompt_format, base = PromptFormat.from_record(record.prompt_format), record.base_model
    tokenizer = tokenizer_for(workspace, base)

    def encode(messages: Sequence[Turn]) -> list[int]:
        text = prompt_format.render(messages, add_generation_prompt=True)
        return tokenizer.encode(text, add_special_tokens=False).ids

    with Served(gguf, context=context, slots=slots, log=log) as served:
        asker = CompletionEndpoint(served.base_url, encode, prompt_format.stops, timeout_s=LOCAL_TIMEOUT_S)
        try:
            yield Answering(asker, identity, f"{gguf.name} by llama.cpp", True, served.died)
        finally:
            asker.close()


def trained_gguf(workspace: Workspace, record: ModelRecord) -> ModelFile:
    """The GGUF by which a model trained here is served.

    Raises:
        Conflict: it was not exported yet.
        StoreCorrupt: it is listed and gone.
    """
    file = choose_gguf(record.files)
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


def choose_gguf(files: Sequence[ModelFile]) -> ModelFile | None:
    """The GGUF to serve: in the order above, else the first there is."""
    found = [file for file in files if file.kind == "gguf"]
    places = {name: place for place, name in enumerate(QUANTIZATION_ORDER)}
    return min(found, key=lambda file: places.get(file.quantization or "", len(places)), default=None)
