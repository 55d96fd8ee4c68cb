"""What a dataset was made from."""

from __future__ import annotations

from typing import Any

from tunesmith.data.store import DatasetStore
from tunesmith.errors import NotFound
from tunesmith.workspace import Workspace

MAX_ANCESTORS = 20
_KEPT = {"dataset_id", "name", "rows", "created_by", "sha256", "languages", "sources"}


def lineage(workspace: Workspace, dataset_id: str | None) -> list[dict[str, Any]]:
    """A dataset and what it was made from, nearest first, as facts that outlive them. What is gone is left out."""
    store = DatasetStore(workspace)
    found: list[dict[str, Any]] = []
    waiting = [dataset_id] if dataset_id else []
    while waiting and len(found) < MAX_ANCESTORS:
        try:
            dataset = store.get(waiting.pop(0))
        except NotFound:
            continue
        if all(entry["dataset_id"] != dataset.dataset_id for entry in found):
            found.append(dataset.model_dump(include=_KEPT))
            waiting += dataset.parents
    return found
