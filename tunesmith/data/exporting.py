"""A dataset as a file that other tools read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tunesmith.data.formats import FORMATS, Format, NotExpressible, from_row, is_plain_pair
from tunesmith.data.llama_factory import dataset_info
from tunesmith.data.results import ExportResult
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, Conflict, InvalidArgument, NotSupported
from tunesmith.files import open_atomic
from tunesmith.workspace import Workspace

SMALL_BYTES = 32 * 2**20
PROGRESS_ROWS = 2000
OnProgress = Callable[[str, int, int], None]


def is_small(workspace: Workspace, dataset_id: str) -> bool:
    """Whether an export takes a second or so. Raises as `DatasetStore.rows_path`."""
    return DatasetStore(workspace).rows_path(dataset_id).stat().st_size <= SMALL_BYTES


def export_dataset(
    workspace: Workspace,
    dataset_id: str,
    *,
    format: str,
    path: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ExportResult:
    """Write a dataset's rows in another tool's format.

    Args:
        format: alpaca, sharegpt, messages, prompt_completion or preference. Where every row has a rejected answer,
            alpaca and sharegpt hold both answers, as LLaMA-Factory's rankings do; the others but preference hold the
            chosen one.
        path: a file ending in .jsonl (one object a line) or .json (one array), in a folder under
            an allowed root; default: `exports/FORMAT.jsonl` beside the dataset's rows.
        overwrite: replace a file that is there.
        on_progress: called with a message, rows written and rows in all; may raise to stop.

    Raises:
        NotFound, InvalidArgument: as `DatasetStore.get`; unknown format.
        PathRefused: the path may not be written.
        Conflict: the file exists.
        NotSupported: another ending.
        BadInput: a row cannot be said in that format; the first is named and nothing is written. For preference,
            rows without a rejected answer are counted.
    """
    chosen, target = check_export(workspace, dataset_id, format=format, path=path, overwrite=overwrite)
    store = DatasetStore(workspace)
    conversational = chosen == "prompt_completion" and not all(is_plain_pair(row) for row in store.rows(dataset_id))
    dataset = store.get(dataset_id)
    if chosen == "preference" and dataset.pairs < dataset.rows:
        raise BadInput(
            f"{dataset.rows - dataset.pairs} of {dataset.rows} rows have no rejected answer. Nothing was written.",
            next="Use another format, or leave those rows out with clean_dataset (drop=['rejected_missing']).",
        )
    ranking = dataset.pairs == dataset.rows and chosen in ("alpaca", "sharegpt")
    records = _records(store, dataset_id, chosen, conversational=conversational, ranking=ranking)
    if on_progress is not None:
        records = _telling(records, dataset.rows, on_progress)
    with open_atomic(target) as file:
        rows, size, sha256, fields = _write(file, records, as_array=target.suffix.lower() == ".json")
    return ExportResult(
        path=str(target),
        rows=rows,
        bytes=size,
        sha256=sha256,
        rejected_left_out=0 if ranking or chosen == "preference" else dataset.pairs,
        llama_factory=dataset_info(target, chosen, fields, conversational=conversational, ranking=ranking),
    )


def check_export(
    workspace: Workspace, dataset_id: str, *, format: str, path: str | None, overwrite: bool
) -> tuple[Format, Path]:
    """The format and the file that are meant, if an export may write it. Raises as `export_dataset`."""
    chosen: Format | None = next((known for known in FORMATS if known == format), None)
    if chosen is None:
        raise InvalidArgument(f"format {format!r} is unknown.", next=f"Use {', '.join(FORMATS)}.")
    folder = DatasetStore(workspace).folder(dataset_id)
    target = folder / "exports" / f"{chosen}.jsonl" if path is None else workspace.roots.resolve_new(path)
    if target.suffix.lower() not in (".jsonl", ".json"):
        raise NotSupported(
            f"An export ends in .jsonl or .json, not {target.suffix or 'nothing'!r}.", next="Choose such a name."
        )
    _refuse_own_files(target, workspace)
    if target.exists() and not overwrite:
        raise Conflict(f"{target} exists already.", next="Call again with overwrite=true, or with another path.")
    return chosen, target


def _records(
    store: DatasetStore, dataset_id: str, format: Format, *, conversational: bool, ranking: bool
) -> Iterator[dict[str, Any]]:
    # One shape for the whole file: a column that is text here and a list there, or that first comes up after
    # some thousand rows, can't be loaded.
    with_system = format == "alpaca" and _has_system(store.rows_path(dataset_id))
    for row in store.rows(dataset_id):
        try:
            record = from_row(row, format, conversational=conversational, ranking=ranking)
        except NotExpressible as error:
            raise BadInput(
                f"Row {row.row_id} cannot be written as {format}: {error}. Nothing was written.",
                next="Export with format='messages', which can say every row.",
            ) from error
        if with_system:
            record.setdefault("system", "")
        yield record


def _has_system(rows_path: Path) -> bool:
    with rows_path.open("rb") as file:
        return any(b'{"role":"system"' in line for line in file)


def _telling(records: Iterator[dict[str, Any]], total: int, on_progress: OnProgress) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records):
        if number % PROGRESS_ROWS == 0:
            on_progress("Writing rows", number, total)
        yield record


def _write(file: IO[bytes], records: Iterator[dict[str, Any]], *, as_array: bool) -> tuple[int, int, str, set[str]]:
    import orjson

    digest = hashlib.sha256()
    rows = size = 0

    def put(piece: bytes) -> None:
        nonlocal size
        file.write(piece)
        digest.update(piece)
        size += len(piece)

    fields: set[str] = set()
    for record in records:
        fields.update(record)
        if as_array:
            put(b"[\n" if rows == 0 else b",\n")
        put(orjson.dumps(record))
        if not as_array:
            put(b"\n")
        rows += 1
    if as_array:
        put(b"\n]\n")
    return rows, size, digest.hexdigest(), fields


def _refuse_own_files(target: Path, workspace: Workspace) -> None:
    """Inside the workspace an export may only lie in an `exports` folder: datasets are never changed."""
    if workspace.root in target.parents and "exports" not in target.relative_to(workspace.root).parts[:-1]:
        raise InvalidArgument(
            f"{target} lies inside the workspace, among tunesmith's own files.",
            next="Leave path out, or choose a folder outside the workspace.",
        )
