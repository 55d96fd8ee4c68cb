"""From a model reference to something that answers: an endpoint, or a GGUF served here for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import InvalidArgument, NotSupported
from tunesmith.models.endpoints import ChatEndpoint, CompletionEndpoint, address_of, endpoint_for
from tunesmith.models.references import Reference, parse_reference
from tunesmith.models.servable import servable
from tunesmith.models.serving import Served
from tunesmith.workspace import Workspace

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
        address_of(reference)
    elif reference.kind in ("run", "model", "embedded"):
        servable(workspace, reference)
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
    one = servable(workspace, reference)
    with Served(one.gguf, context=context, slots=slots, log=log) as served:
        asker = CompletionEndpoint(served.base_url, one.encode, one.prompt_format.stops, timeout_s=LOCAL_TIMEOUT_S)
        try:
            yield Answering(asker, one.identity, f"{one.gguf.name} by llama.cpp", True, served.died)
        finally:
            asker.close()
