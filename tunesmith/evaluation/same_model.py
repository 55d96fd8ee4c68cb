"""When two references mean one model, whatever they are written like."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tunesmith.models.endpoints import address_of
from tunesmith.models.references import Reference
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}
_SAID = re.compile(r"\b(again|copy|same|twice|repeated|a/a)\b|再|同", re.IGNORECASE)
_NUMBERED = re.compile(r"[\s_#(/-]*[0-9]{1,3}\)?")


def identity_of(workspace: Workspace, reference: Reference, ollama_host: str | None = None) -> str:
    """What a reference means: equal for two that lead to the same model. Contacts nothing.

    Args:
        ollama_host: as in OLLAMA_HOST; default: that variable.

    Raises:
        InvalidArgument: an endpoint without an address.
        NotFound: a run or model that is not there.
    """
    if reference.kind in ("run", "model"):
        return ModelStore(workspace).resolve(reference.name).model_id
    if reference.kind in ("openai", "ollama"):
        base_url, _key = address_of(reference, ollama_host=ollama_host)
        # Ollama answers both at its own address and at /v1, and a name without a tag is that of the latest.
        return f"{_place(base_url)} {reference.name.removesuffix(':latest')}"
    return f"{reference.kind}:{reference.name}"


def root_of(workspace: Workspace, reference: Reference) -> str | None:
    """The base whose weights answer: of a model trained here, its base; None behind an endpoint."""
    if reference.kind in ("run", "model"):
        return ModelStore(workspace).resolve(reference.name).base_model.strip()
    return None if reference.kind in ("openai", "ollama") else reference.name


def labels_say_so(first: str, other: str) -> bool:
    """Whether a label tells a reader that it is `first` once more: "base again", "base 2", "A/A"."""
    return bool(_SAID.search(other) or (other.startswith(first) and _NUMBERED.fullmatch(other[len(first) :])))


def _place(url: str) -> str:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".").lower()
    if host in _LOOPBACK:
        host = "127.0.0.1"
    return f"{parts.scheme}://{host}:{parts.port or _PORTS.get(parts.scheme)}{parts.path.rstrip('/')}"
