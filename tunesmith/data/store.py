"""Datasets on disk and in the database: written once, read many times, never changed.

A dataset is a folder `datasets/DS_ID/` with `rows.jsonl`, its index, `manifest.json` and
whatever was left beside them (`report.json`, `skipped.jsonl`), and one row of the
`datasets` table that makes it visible. The folder comes first: a crash in between
leaves a folder that nobody sees, never a listed dataset without its rows.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.data.language import language_of
from tunesmith.data.records import Dataset, Lengths, LengthStats, Row, Sources, Splits
from tunesmith.data.row_pages import INDEX_FILE, IndexWriter, lines_from
from tunesmith.errors import EmptyInput, InvalidArgument, NotFound, StoreCorrupt
from tunesmith.files import atomic_folder, write_atomic
from tunesmith.workspace import Workspace, check_id, new_id

ROWS_FILE = "rows.jsonl"
MANIFEST_FILE = "manifest.json"
MAX_NAME_CHARS = 120
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class DatasetStore:
    """The datasets of one workspace. Safe to use from several threads and processes."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def create(
        self,
        rows: Iterable[Row],
        *,
        name: str,
        created_by: str,
        parents: Sequence[str] = (),
        extra_files: Mapping[str, bytes | Iterable[bytes]] | None = None,
    ) -> Dataset:
        """Store `rows` as a new dataset. Rows are streamed: one is in memory at a time.

        A row keeps its `row_id` unless it is empty or was seen before in this dataset.

        Args:
            rows: at least one.
            name: for people; control characters are removed, 120 characters are kept.
            created_by: the tool that makes it.
            parents: ids of the datasets it is made from.
            extra_files: plain file names and their content, stored beside the rows. Pieces are
                taken when all rows have been, and none of them make no file.

        Raises:
            EmptyInput: there are no rows. Nothing is left on disk.
            InvalidArgument: a row holds something that JSON cannot (a lone surrogate in `meta`).
            DiskFull: there was no room.
        """
        dataset_id = new_id("ds")
        folder = self.workspace.datasets / dataset_id
        tally = _Tally()
        with atomic_folder(folder) as temporary:
            sha256 = _write_rows(temporary / ROWS_FILE, rows, tally)
            for file_name, content in (extra_files or {}).items():
                _write_beside(temporary / _plain_name(file_name), content)
            if tally.rows == 0:
                raise EmptyInput(
                    "There is no row to store, so no dataset was made.",
                    next="Give at least one example, or loosen what was filtered out.",
                )
            dataset = Dataset(
                dataset_id=dataset_id,
                name=_CONTROL.sub(" ", name).strip()[:MAX_NAME_CHARS] or dataset_id,
                parents=list(parents),
                created_by=created_by,
                created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                sha256=sha256,
                resources=[f"datasets://{dataset_id}{part}" for part in ("", "/rows", "/report")],
                **tally.fields(),
            )
            manifest = dataset.model_dump_json()
            (temporary / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
        try:
            with self.workspace.database.transaction() as connection:
                connection.execute(
                    "INSERT INTO datasets (id, created_at, manifest) VALUES (?, ?, ?)",
                    (dataset_id, dataset.created_at, manifest),
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return dataset

    def get(self, dataset_id: str) -> Dataset:
        """One dataset.

        Raises:
            InvalidArgument: not a dataset id.
            NotFound: there is none of that id.
        """
        check_id("ds", dataset_id)
        found = self.workspace.database.read("SELECT manifest FROM datasets WHERE id = ?", (dataset_id,))
        if not found:
            raise NotFound(
                f"There is no dataset {dataset_id} in this workspace.",
                next="Call list_datasets to see the datasets there are.",
            )
        return Dataset.model_validate_json(found[0]["manifest"])

    def page(self, limit: int, cursor: str | None = None) -> tuple[list[Dataset], str | None, int]:
        """Datasets, newest first: at most `limit`, the cursor of the next page or None, and how many there are.

        Raises:
            InvalidArgument: `limit` below 1, or a cursor that no page returned.
        """
        _check_limit(limit)
        before = _cursor_number(cursor) if cursor is not None else 2**62
        database = self.workspace.database
        total = int(database.read("SELECT COUNT(*) AS n FROM datasets")[0]["n"])
        found = database.read(
            "SELECT seq, manifest FROM datasets WHERE seq < ? ORDER BY seq DESC LIMIT ?", (before, limit + 1)
        )
        datasets = [Dataset.model_validate_json(line["manifest"]) for line in found[:limit]]
        following = str(found[limit - 1]["seq"]) if len(found) > limit else None
        return datasets, following, total

    def folder(self, dataset_id: str) -> Path:
        """The dataset's folder. Raises as `get`."""
        self.get(dataset_id)
        return self.workspace.datasets / dataset_id

    def rows_path(self, dataset_id: str) -> Path:
        """The file of its rows, one JSON object a line. Raises as `get`.

        Raises:
            StoreCorrupt: the dataset is listed and its rows are gone.
        """
        path = self.folder(dataset_id) / ROWS_FILE
        if not path.is_file():
            raise StoreCorrupt(
                f"The rows of dataset {dataset_id} are missing ({path}).",
                next="Restore that file from a copy, or make the dataset again from its source.",
            )
        return path

    def rows(self, dataset_id: str) -> Iterator[Row]:
        """Its rows in order, streamed. Raises as `rows_path`, at once."""
        return self._read_rows(self.rows_path(dataset_id), dataset_id)

    def page_rows(
        self, dataset_id: str, limit: int, cursor: str | None = None, *, max_bytes: int | None = None
    ) -> tuple[list[Row], str | None, int]:
        """Rows in order: at most `limit`, the cursor of the next page or None, and how many there are.

        Args:
            max_bytes: the page ends before its rows have more bytes than this; one row is always on it.

        Raises:
            InvalidArgument: `limit` below 1, or a cursor that no page returned.
            StoreCorrupt: a row cannot be read, or there are fewer than there were.
        """
        _check_limit(limit)
        total = self.get(dataset_id).rows
        start = _cursor_number(cursor) if cursor is not None else 0
        if start >= total:
            raise _bogus_cursor(str(start))
        page: list[Row] = []
        size = 0
        for number, line in lines_from(self.rows_path(dataset_id), start):
            size += len(line)
            if len(page) == limit or (page and max_bytes is not None and size > max_bytes):
                break
            page.append(_parse(line, number + 1, dataset_id))
        end = start + len(page)
        if not page:
            raise _changed(f"The rows of {dataset_id} end before row {start + 1} of {total}")
        return page, str(end) if end < total else None, total

    def write_report(self, dataset_id: str, name: str, content: bytes | str) -> Path:
        """Leave a file beside the rows, replacing an older one of that name. The rows stay as they are."""
        path = self.report_path(dataset_id, name)
        write_atomic(path, content)
        return path

    def report_path(self, dataset_id: str, name: str) -> Path:
        """Where a report of that name lies, whether or not it was written.

        Raises:
            InvalidArgument: not a plain file name, or one of the dataset's own files.
        """
        return self.folder(dataset_id) / _plain_name(name)

    @staticmethod
    def _read_rows(path: Path, dataset_id: str) -> Iterator[Row]:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _parse(line, number, dataset_id)


class _Tally:
    """What a manifest says about rows, gathered while they stream by."""

    def __init__(self) -> None:
        self.rows = 0
        self.pairs = 0
        # Most datasets count r1, r2, r3 …: those are remembered by the last of them.
        self._counted = 0
        self._ids: set[str] = set()
        self._instruction = array("q")
        self._output = array("q")
        self._languages = {"zh": 0, "en": 0, "other": 0}
        self._splits = {"train": 0, "eval": 0}
        self._files: set[tuple[str, str]] = set()
        self._spans = 0

    def add(self, row: Row) -> None:
        self.rows += 1
        instruction, output = row.instruction, row.output
        self._instruction.append(len(instruction))
        self._output.append(len(output))
        self.pairs += row.rejected is not None
        self._languages[language_of(f"{instruction}\n{output}")] += 1
        if row.split is not None:
            self._splits[row.split] += 1
        if row.source is not None:
            self._files.add((row.source.path, row.source.sha256))
            self._spans += 1

    def unused_id(self, wanted: str) -> str:
        """`wanted`, or a new id where it is empty or taken."""
        number = self.rows + 1
        while not wanted or self._is_taken(wanted):
            wanted = f"r{number}"
            number += 1
        if wanted == f"r{self._counted + 1}":
            self._counted += 1
        else:
            self._ids.add(wanted)
        return wanted

    def _is_taken(self, row_id: str) -> bool:
        if row_id in self._ids:
            return True
        number = row_id[1:] if row_id[:1] == "r" and len(row_id) <= 18 else ""
        return number.isascii() and number.isdigit() and number[0] != "0" and int(number) <= self._counted

    def fields(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "pairs": self.pairs,
            "splits": Splits(**self._splits),
            "languages": self._languages,
            "chars": Lengths(instruction=length_stats(self._instruction), output=length_stats(self._output)),
            "sources": Sources(files=len(self._files), spans=self._spans),
        }


def length_stats(lengths: Iterable[int]) -> LengthStats:
    """Minimum, nearest-rank percentiles, maximum and mean of at least one length."""
    ordered = sorted(lengths)
    return LengthStats(
        min=ordered[0],
        p50=percentile(ordered, 50),
        p95=percentile(ordered, 95),
        max=ordered[-1],
        mean=round(sum(ordered) / len(ordered), 2),
    )


def percentile(ordered: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile of sorted numbers: always a number that occurs."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _write_rows(path: Path, rows: Iterable[Row], tally: _Tally) -> str:
    import orjson

    digest = hashlib.sha256()
    index, offset = IndexWriter(), 0
    with path.open("xb") as file:
        for row in rows:
            row_id = tally.unused_id(row.row_id)
            record = row.model_dump()
            record["row_id"] = row_id
            try:
                line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
            except (TypeError, orjson.JSONEncodeError) as error:
                raise InvalidArgument(
                    f"Row {row_id} cannot be written as JSON: {error}.",
                    next="Remove lone surrogates, integers over 64 bits and values that JSON does not know.",
                ) from error
            file.write(line)
            digest.update(line)
            index.add(tally.rows, offset)
            offset += len(line)
            tally.add(row)
    path.with_name(INDEX_FILE).write_bytes(index.content())
    return digest.hexdigest()


def _write_beside(path: Path, content: bytes | Iterable[bytes]) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    pieces = iter(content)
    first = next(pieces, None)
    if first is None:
        return
    with path.open("xb") as file:
        file.write(first)
        file.writelines(pieces)


def _parse(line: bytes, number: int, dataset_id: str) -> Row:
    try:
        return Row.model_validate_json(line)
    except ValueError as error:
        raise _changed(f"Line {number} of the rows of {dataset_id} cannot be read") from error


def _changed(what: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"{what}; the file was changed after it was written.",
        next="Restore rows.jsonl from a copy, or make the dataset again from its source.",
    )


def _plain_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name) or name in (ROWS_FILE, INDEX_FILE, MANIFEST_FILE):
        raise InvalidArgument(
            f"{name[:60]!r} cannot be the name of a file beside a dataset's rows.",
            next="Use letters, digits, dots and dashes, and another name than rows.jsonl, rows.index or manifest.json.",
        )
    return name


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise InvalidArgument(
            f"limit is {limit}; a page has at least 1 entry.", next="Call again with limit from 1 to 100."
        )


def _cursor_number(cursor: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,17}", cursor, re.ASCII):
        raise _bogus_cursor(cursor)
    return int(cursor)


def _bogus_cursor(cursor: str) -> InvalidArgument:
    return InvalidArgument(
        f"{cursor[:60]!r} is not a cursor of this list.",
        next="Leave cursor out for the first page, then pass the next_cursor of the page before.",
    )
