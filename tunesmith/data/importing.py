"""Rows that somebody else wrote: a file, or a data set of the Hugging Face Hub, becomes a dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tunesmith.data.formats import FORMATS, Format, RowRejected, detect, to_row
from tunesmith.data.records import Row
from tunesmith.data.results import ImportResult, Rejected
from tunesmith.data.row_files import Records, read_records
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, EmptyInput, InvalidArgument, NotFound
from tunesmith.workspace import Workspace

MAX_REJECTED_SHOWN = 50
DETECTION_ROWS = 200
SPLITS = ("train", "eval")
_FILE_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".md", ".gz", ".zip")
_HUB_ID = re.compile(r"(?:hf://)?(?:datasets/)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def import_dataset(
    workspace: Workspace, source: str, *, format: str = "auto", name: str | None = None, split: str | None = None
) -> ImportResult:
    """Read rows into a new dataset.

    JSONL, JSON arrays, CSV and Parquet are told apart by their content and read in a
    stream. With `format="auto"` the format most of the first 200 rows are written in
    is the file's; a row in another one, or a broken one, is rejected with its line
    and reason.

    Args:
        source: a file under an allowed root, or `owner/name` of a Hub data set.
        format: auto, alpaca, sharegpt, messages or prompt_completion.
        name: for people; default: the file's.
        split: rows that name a split are kept only if it is this one; rows that name
            none are put into it. Of a Hub data set, the files of that split (default train).

    Raises:
        InvalidArgument: unknown format or split.
        NotFound, PathRefused: no such file.
        BadInput, EmptyInput: nothing in it can be used.
        MissingExtra: Parquet or a Hub id without the packages for it.
        Unreachable: the Hub did not answer and the data set is not cached.
    """
    if format != "auto" and format not in FORMATS:
        raise InvalidArgument(f"format {format!r} is unknown.", next=f"Use auto, {', '.join(FORMATS)}.")
    if split is not None and split not in SPLITS:
        raise InvalidArgument(f"split {split!r} is unknown.", next="Use train or eval, or leave it out.")
    with ExitStack() as opened:
        records = _open(workspace, source, split, opened)
        reader = _Reader(records, format, split)
        try:
            dataset = DatasetStore(workspace).create(
                reader.rows(), name=name or Path(source).name, created_by="import_dataset"
            )
        except EmptyInput as error:
            raise reader.nothing_usable(source) from error
    return ImportResult(
        **dict(dataset),
        format=reader.format or "",
        rejected=reader.rejected,
        rejected_total=reader.rejected_total,
        other_splits=reader.other_splits,
    )


def _open(workspace: Workspace, source: str, split: str | None, opened: ExitStack) -> Records:
    try:
        path = workspace.roots.resolve(source)
    except NotFound:
        if not _HUB_ID.fullmatch(source) or source.lower().endswith(_FILE_ENDINGS):
            raise
        return _open_hub(source, split, opened)
    if path.is_dir():
        raise BadInput(
            f"{source!r} is a folder; an import reads one file.",
            next="Name the JSON, JSONL, CSV or Parquet file inside, or use extract_qa for a folder of notes.",
        )
    return read_records(opened.enter_context(workspace.roots.open(source)), path.name, opened)


def _open_hub(source: str, split: str | None, opened: ExitStack) -> Records:
    from tunesmith.data.hub import hub_files

    files = hub_files(source.removeprefix("hf://").removeprefix("datasets/"), split or "train")
    return chain.from_iterable(read_records(opened.enter_context(path.open("rb")), path.name, opened) for path in files)


class _Reader:
    """Records in, rows out; what does not become a row is remembered."""

    def __init__(self, records: Records, format: str, split: str | None) -> None:
        self._records = records
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
                if row.split not in (None, self._split):
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

    def _reject(self, line: int, reason: str) -> None:
        self.rejected_total += 1
        if len(self.rejected) < MAX_REJECTED_SHOWN:
            self.rejected.append(Rejected(line=line, reason=reason))

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


def _prevailing(head: list[tuple[int, dict[str, Any] | RowRejected]]) -> Format | None:
    counts: Counter[Format] = Counter()
    for _line, record in head:
        if isinstance(record, dict) and (written := detect(record)) is not None:
            counts[written] += 1
    return counts.most_common(1)[0][0] if counts else None
