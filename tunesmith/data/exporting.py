"""A dataset as a file that other tools read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tunesmith.data.formats import FORMATS, Format, NotExpressible, from_row, is_plain_pair
from tunesmith.data.results import ExportResult
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, Conflict, InvalidArgument, NotSupported
from tunesmith.files import open_atomic
from tunesmith.workspace import Workspace


def export_dataset(
    workspace: Workspace, dataset_id: str, *, format: str, path: str | None = None, overwrite: bool = False
) -> ExportResult:
    """Write a dataset's rows in another tool's format.

    Args:
        format: alpaca, sharegpt, messages or prompt_completion.
        path: a file ending in .jsonl (one object a line) or .json (one array), in a folder under
            an allowed root; default: `exports/FORMAT.jsonl` beside the dataset's rows.
        overwrite: replace a file that is there.

    Raises:
        NotFound, InvalidArgument: as `DatasetStore.get`; unknown format.
        PathRefused: the path may not be written.
        Conflict: the file exists.
        NotSupported: another ending.
        BadInput: a row cannot be said in that format; the first is named and nothing is written.
    """
    chosen: Format | None = next((known for known in FORMATS if known == format), None)
    if chosen is None:
        raise InvalidArgument(f"format {format!r} is unknown.", next=f"Use {', '.join(FORMATS)}.")
    store = DatasetStore(workspace)
    folder = store.folder(dataset_id)
    target = folder / "exports" / f"{chosen}.jsonl" if path is None else workspace.roots.resolve_new(path)
    if target.suffix.lower() not in (".jsonl", ".json"):
        raise NotSupported(
            f"An export ends in .jsonl or .json, not {target.suffix or 'nothing'!r}.", next="Choose such a name."
        )
    _refuse_own_files(target, workspace)
    if target.exists() and not overwrite:
        raise Conflict(f"{target} exists already.", next="Call again with overwrite=true, or with another path.")
    records = _records(store, dataset_id, chosen)
    with open_atomic(target) as file:
        rows, size, sha256 = _write(file, records, as_array=target.suffix.lower() == ".json")
    return ExportResult(path=str(target), rows=rows, bytes=size, sha256=sha256)


def _records(store: DatasetStore, dataset_id: str, format: Format) -> Iterator[dict[str, Any]]:
    # One shape for the whole file: a column that is text here and a list there can't be loaded.
    conversational = format == "prompt_completion" and not all(is_plain_pair(row) for row in store.rows(dataset_id))
    for row in store.rows(dataset_id):
        try:
            yield from_row(row, format, conversational=conversational)
        except NotExpressible as error:
            raise BadInput(
                f"Row {row.row_id} cannot be written as {format}: {error}. Nothing was written.",
                next="Export with format='messages', which can say every row.",
            ) from error


def _write(file: IO[bytes], records: Iterator[dict[str, Any]], *, as_array: bool) -> tuple[int, int, str]:
    import orjson

    digest = hashlib.sha256()
    rows = size = 0

    def put(piece: bytes) -> None:
        nonlocal size
        file.write(piece)
        digest.update(piece)
        size += len(piece)

    for record in records:
        if as_array:
            put(b"[\n" if rows == 0 else b",\n")
        put(orjson.dumps(record))
        if not as_array:
            put(b"\n")
        rows += 1
    if as_array:
        put(b"\n]\n")
    return rows, size, digest.hexdigest()


def _refuse_own_files(target: Path, workspace: Workspace) -> None:
    """Inside the workspace an export may only lie in an `exports` folder: datasets are never changed."""
    if workspace.root in target.parents and "exports" not in target.relative_to(workspace.root).parts[:-1]:
        raise InvalidArgument(
            f"{target} lies inside the workspace, among tunesmith's own files.",
            next="Leave path out, or choose a folder outside the workspace.",
        )
