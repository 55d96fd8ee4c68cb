"""Rows that somebody else wrote: a file, or a data set of the Hugging Face Hub, becomes a dataset."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from tunesmith.data.formats import FORMATS, Format, RowRejected, detect, to_row
from tunesmith.data.records import Row
from tunesmith.data.records_read import Records
from tunesmith.data.results import ImportResult, Rejected
from tunesmith.data.row_files import read_records
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, EmptyInput, InvalidArgument, NotFound
from tunesmith.workspace import Workspace

REJECTED_FILE = "rejected.jsonl"
MAX_REJECTED_SHOWN = 50
REJECTED_IN_MEMORY = 2**20  # bytes
PROGRESS_ROWS = 2000
SMALL_BYTES = 16 * 2**20
DETECTION_ROWS = 200
SPLITS = ("train", "eval")
_EVAL_SPLITS = ("evaluation", "validation", "valid", "val", "dev", "test")
_FILE_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".md", ".gz", ".zip")
_PACKED_ENDINGS = (".gz", ".parquet")
OnProgress = Callable[[str, int, int], None]
_HUB_ID = re.compile(r"(?:hf://)?(?:datasets/)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_small(workspace: Workspace, source: str) -> bool:
    """Whether an import takes a second or so, and nobody need wait for a process of its own.

    Raises:
        NotFound, PathRefused: as `import_dataset`, for what cannot be a Hub id.
    """
    path = _local(workspace, source)
    if path is None:
        return False
    return path.stat().st_size <= SMALL_BYTES // (8 if path.suffix.lower() in _PACKED_ENDINGS else 1)


def import_dataset(
    workspace: Workspace,
    source: str,
    *,
    format: str = "auto",
    name: str | None = None,
    split: str | None = None,
    on_progress: OnProgress | None = None,
) -> ImportResult:
    """Read rows into a new dataset.

    JSONL, JSON arrays, CSV (each also packed with gzip) and Parquet are told apart by their content and read in a
    stream. With `format="auto"` the format most of the first 200 rows are written in
    is the file's; a row in another one, or a broken one, is rejected with its line
    and reason: the first 50 in the result, every one in `rejected.jsonl` beside the rows.

    Args:
        source: a file under an allowed root, or `owner/name` of a Hub data set.
        format: auto, alpaca, sharegpt, messages, prompt_completion or preference.
        name: for people; default: the file's.
        split: rows that name a split are kept only if it is this one; rows that name
            none are put into it. Of a Hub data set, the files of that split (default train).
        on_progress: called with a message, MiB read and MiB in all; may raise to stop.

    Raises:
        InvalidArgument: unknown format or split.
        NotFound, PathRefused: no such file.
        BadInput, EmptyInput: nothing in it can be used.
        MissingExtra: Parquet or a Hub id without the packages for it.
        Unreachable: the Hub did not answer and the data set is not cached.
    """
    check_arguments(format, split)
    store = DatasetStore(workspace)
    with ExitStack() as opened:
        files = _open(workspace, source, split, opened)
        records = chain.from_iterable(read_records(file, name, opened) for file, name in files)
        if on_progress is not None:
            records = _telling(records, [file for file, _name in files], on_progress)
        reader = _Reader(records, format, split, opened)
        try:
            dataset = store.create(
                reader.rows(),
                name=name or Path(source).name,
                created_by="import_dataset",
                extra_files={REJECTED_FILE: reader.rejections()},
            )
        except EmptyInput as error:
            raise reader.nothing_usable(source) from error
    path = store.report_path(dataset.dataset_id, REJECTED_FILE)
    return ImportResult(
        **dict(dataset),
        format=reader.format or "",
        rejected=reader.rejected,
        rejected_total=reader.rejected_total,
        rejected_left_out=reader.rejected_total - len(reader.rejected),
        rejected_file=str(path) if reader.rejected else None,
        other_splits=reader.other_splits,
    )


def check_arguments(format: str, split: str | None) -> None:
    """Raises `InvalidArgument` for a format or a split that there is none of."""
    if format != "auto" and format not in FORMATS:
        raise InvalidArgument(f"format {format!r} is unknown.", next=f"Use auto, {', '.join(FORMATS)}.")
    if split is not None and split not in SPLITS:
        raise InvalidArgument(f"split {split!r} is unknown.", next="Use train or eval, or leave it out.")


def _local(workspace: Workspace, source: str) -> Path | None:
    """The file that is meant; None when it can only be a Hub id."""
    try:
        return workspace.roots.resolve(source)
    except NotFound:
        if not _HUB_ID.fullmatch(source) or source.lower().endswith(_FILE_ENDINGS):
            raise
        return None


def _open(workspace: Workspace, source: str, split: str | None, opened: ExitStack) -> list[tuple[IO[bytes], str]]:
    path = _local(workspace, source)
    if path is None:
        return _open_hub(source, split, opened)
    if path.is_dir():
        raise BadInput(
            f"{source!r} is a folder; an import reads one file.",
            next="Name the JSON, JSONL, CSV or Parquet file inside, or use extract_qa for a folder of notes.",
        )
    return [(opened.enter_context(workspace.roots.open(source)), path.name)]


def _open_hub(source: str, split: str | None, opened: ExitStack) -> list[tuple[IO[bytes], str]]:
    from tunesmith.data.hub import hub_files

    files = hub_files(source.removeprefix("hf://").removeprefix("datasets/"), split or "train")
    return [(opened.enter_context(path.open("rb")), path.name) for path in files]


def _telling(records: Records, files: list[IO[bytes]], on_progress: OnProgress) -> Records:
    total = sum(os.fstat(file.fileno()).st_size for file in files) // 2**20
    for number, record in enumerate(records):
        if number % PROGRESS_ROWS == 0:
            on_progress(f"{number:,} rows read", sum(file.tell() for file in files) // 2**20, total)
        yield record


class _Reader:
    """Records in, rows out; what does not become a row is remembered."""

    def __init__(self, records: Records, format: str, split: str | None, opened: ExitStack) -> None:
        self._records = records
        self._rejections = opened.enter_context(SpooledTemporaryFile(REJECTED_IN_MEMORY))  # noqa: SIM115
        self.format: Format | None = next((known for known in FORMATS if known == format), None)
        self._detected = format == "auto"
        self._split = split
        self.rejected: list[Rejected] = []
        self.rejected_total = 0
        self.other_splits = 0

    def rows(self) -> Iterator[Row]:
        records = self._records
        if self._detected:
            head = list(islice(records, DETECTION_ROWS))
            self.format = _prevailing(head)
            records = chain(head, records)
        number = 0
        for line, record in records:
            try:
                row = self._row(record, number + 1)
            except RowRejected as error:
                self._reject(line, str(error))
                continue
            if self._split is not None:
                if _named_split(row) not in (None, self._split):
                    self.other_splits += 1
                    continue
                row.split = "train" if self._split == "train" else "eval"
            number += 1
            yield row

    def _row(self, record: dict[str, Any] | RowRejected, number: int) -> Row:
        if isinstance(record, RowRejected):
            raise record
        written = detect(record)
        if self.format is None or (self._detected and written != self.format):
            self._refuse_other(written)
        assert self.format is not None
        return to_row(record, self.format, f"r{number}")

    def _refuse_other(self, written: Format | None) -> None:
        if written is None:
            raise RowRejected("it has the fields of no known format")
        raise RowRejected(f"it is written as {written}, the file as {self.format}")

    def rejections(self) -> Iterator[bytes]:
        """Every row that was rejected, one JSON object a line; to be taken after the rows."""
        self._rejections.seek(0)
        yield from self._rejections

    def _reject(self, line: int, reason: str) -> None:
        rejected = Rejected(line=line, reason=reason)
        self._rejections.write(rejected.model_dump_json().encode("utf-8") + b"\n")
        self.rejected_total += 1
        if len(self.rejected) < MAX_REJECTED_SHOWN:
            self.rejected.append(rejected)

    def nothing_usable(self, source: str) -> BadInput | EmptyInput:
        """The error for a file of which no row was used."""
        if self.rejected:
            shown = "; ".join(f"line {entry.line}: {entry.reason}" for entry in self.rejected[:3])
            return BadInput(
                f"None of the {self.rejected_total} rows of {source!r} can be used ({shown}).",
                next=f"Write them as {', '.join(FORMATS)}.",
            )
        if self.other_splits:
            return EmptyInput(
                f"All {self.other_splits} rows of {source!r} belong to another split than {self._split!r}.",
                next="Leave split out, or name the other one.",
            )
        return EmptyInput(f"{source!r} holds no rows.", next="Give a file with rows in it.")


def _named_split(row: Row) -> str | None:
    """The split that the row says it is of, by our names where it has one; None when it says nothing."""
    if row.split is not None:
        return row.split
    named = (row.meta.get("extra") or {}).get("split")
    if not isinstance(named, str) or not named.strip():
        return None
    name = named.strip().lower()
    return "eval" if name in _EVAL_SPLITS else name


def _prevailing(head: list[tuple[int, dict[str, Any] | RowRejected]]) -> Format | None:
    counts: Counter[Format] = Counter()
    for _line, record in head:
        if isinstance(record, dict) and (written := detect(record)) is not None:
            counts[written] += 1
    return counts.most_common(1)[0][0] if counts else None
