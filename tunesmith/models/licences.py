"""Under which licence a base model is used, as far as it is known here."""

from __future__ import annotations

import re
from pathlib import Path

from tunesmith.errors import UserError
from tunesmith.models import catalogue, hub
from tunesmith.models.references import parse_reference
from tunesmith.workspace import Workspace

CARD = "README.md"
MAX_CARD_BYTES = 2**20
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"^license(?:_name)?:[ \t]*[\"']?([\w.+ -]{1,60}?)[\"']?[ \t]*$", re.MULTILINE)
# The catalogue's names → those of the Hub, where it has one; without one it is "other" with a name of its own.
_ON_THE_HUB = {
    "apache-2.0": "apache-2.0",
    "mit": "mit",
    "llama 3.1 licence": "llama3.1",
    "llama 3.2 licence": "llama3.2",
    "llama 3.3 licence": "llama3.3",
    "gemma terms of use": "gemma",
}


def licence_of(workspace: Workspace, base_model: str) -> str | None:
    """The licence of a base: from the catalogue, or from the card beside its files. None where neither says.

    Looks at what is on this machine only.
    """
    known = catalogue.find(base_model.strip())
    if known is not None:
        return known.licence
    try:
        reference = parse_reference(base_model, workspace)
        path = (
            Path(reference.name) / CARD
            if reference.kind == "folder"
            else hub.file(reference.name, CARD, download=False)
            if reference.kind == "hub"
            else None
        )
    except UserError:  # the base is gone, or there is no library to look with
        return None
    if path is None or not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return None
    head = _FRONT_MATTER.search(path.read_text(encoding="utf-8", errors="replace"))
    named = _LINE.findall(head[1]) if head else []
    return next((name for name in reversed(named) if name.lower() != "other"), None)


def hub_licence(licence: str) -> str | None:
    """The Hub's identifier of a licence; None where it has none that is known here."""
    plain = licence.strip().lower()
    if plain in _ON_THE_HUB:
        return _ON_THE_HUB[plain]
    # One read from a card is the Hub's already.
    return (
        plain
        if re.fullmatch(r"(apache|mit|bsd|cc|gpl|lgpl|agpl|mpl|llama|openrail|bigscience|gemma)[a-z0-9.+-]*", plain)
        else None
    )
