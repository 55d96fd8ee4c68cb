"""The workspace: where everything lies, and the ids things have."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tunesmith.database import Database
from tunesmith.errors import InvalidArgument, WorkspaceUnusable
from tunesmith.files import AllowedRoots

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
KINDS = {"ds": "dataset", "run": "run", "mdl": "model", "cmp": "comparison"}
_ID = re.compile(r"(ds|run|mdl|cmp)_[a-z2-7]{12}")


def new_id(prefix: str) -> str:
    """A random typed id: `prefix_` and 12 characters of base32 (60 bits). Not a secret."""
    return f"{prefix}_" + "".join(secrets.choice(ALPHABET) for _ in range(12))


def check_id(prefix: str, text: str) -> str:
    """`text`, if it is an id of that kind.

    Raises:
        InvalidArgument: malformed, or an id of another kind.
    """
    match = _ID.fullmatch(text)
    if match and match.group(1) == prefix:
        return text
    wanted = KINDS[prefix]
    listing = {"ds": "list_datasets", "run": "list_runs", "mdl": "list_models", "cmp": "list_runs"}[prefix]
    what = f"is a {KINDS[match.group(1)]} id" if match else "is not an id"
    raise InvalidArgument(
        f"{text[:60]!r} {what}; a {wanted} id looks like {prefix}_ and 12 letters or digits.",
        next=f"Call {listing} to see the ids there are.",
    )


class Workspace:
    """One folder with a database and everything tunesmith made.

    Args:
        root: the folder; created when missing.
        allow: folders from which callers may name files, besides the workspace; default: none.

    Raises:
        WorkspaceUnusable: it cannot be created or written.
    """

    def __init__(self, root: Path, allow: Sequence[Path] = ()) -> None:
        self.root = root
        try:
            self.root = root.expanduser().resolve()
            for folder in (self.root, self.datasets, self.runs, self.models, self.comparisons, self.cache):
                folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, or `~somebody` who is not there
            raise self._unusable(getattr(error, "strerror", None) or str(error).rstrip(".")) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise self._unusable("it is not writable")
        self.roots = AllowedRoots((*allow, self.root))

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def comparisons(self) -> Path:
        return self.root / "comparisons"

    @property
    def cache(self) -> Path:
        """Things that can be made again: the embedded model as a folder, compile caches."""
        return self.root / "cache"

    @cached_property
    def database(self) -> Database:
        return Database(self.root / "tunesmith.db")

    def _unusable(self, why: str) -> WorkspaceUnusable:
        return WorkspaceUnusable(
            f"The workspace {self.root} cannot be used: {why}.",
            next="Choose a folder you can write with --workspace or TUNESMITH_WORKSPACE.",
        )
