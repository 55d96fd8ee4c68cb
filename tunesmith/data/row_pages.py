"""Rows a page at a time out of a file of any size, and rows short enough to be shown.

Beside `rows.jsonl` lies `rows.index`: pairs of little-endian unsigned 64-bit
numbers, a row's number (from 0) and the byte it begins at, one pair for every
64 KiB of rows. A page costs the rows that are on it and at most 64 KiB before it.
"""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from tunesmith.data.records import Message, Row

INDEX_FILE = "rows.index"
STRIDE_BYTES = 64 * 2**10
SHOWN_MESSAGES = 20


class IndexWriter:
    """Notes where rows begin while they are written one after the other."""

    def __init__(self) -> None:
        self._pairs = array("Q")
        self._noted = -STRIDE_BYTES

    def add(self, number: int, offset: int) -> None:
        """Row `number`, counted from 0, begins at byte `offset`."""
        if offset - self._noted >= STRIDE_BYTES:
            self._pairs.extend((number, offset))
            self._noted = offset

    def content(self) -> bytes:
        """The index as a file."""
        return _little_endian(self._pairs).tobytes()


def lines_from(rows_path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a file of rows from row `start` on, with their numbers, both counted from 0.

    Without an index, as older datasets are, the file is read from its beginning.
    """
    number, offset = _nearest(rows_path.with_name(INDEX_FILE), start)
    with rows_path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if number >= start:
                yield number, line
            number += 1


def shortened(row: Row, limit: int) -> tuple[Row, int]:
    """The row in at most about `limit` characters of JSON, and how many characters were left out.

    A text that is cut says so where it ends. Of more than 20 messages the first 20 stay.
    """
    whole = _length(row)
    if whole <= limit:
        return row, 0
    meta = row.meta
    if (size := len(json.dumps(meta, ensure_ascii=False))) > limit // 4:
        meta = {"left_out": f"{size:,} characters; export_dataset writes them"}
    kept = row.messages[:SHOWN_MESSAGES]
    share = limit
    while True:
        share //= 2
        messages = [Message(role=message.role, content=_cut(message.content, share)) for message in kept]
        rejected = row.rejected if row.rejected is None else _cut(row.rejected, share)
        shown = row.model_copy(update={"messages": messages, "rejected": rejected, "meta": meta})
        length = _length(shown)
        if length <= limit or share < 20:
            return shown, whole - length


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit:,} characters left out]"


def _length(row: Row) -> int:
    return len(row.model_dump_json())


def _nearest(index_path: Path, start: int) -> tuple[int, int]:
    """The last row noted at or before `start`, and its byte."""
    try:
        pairs = array("Q", index_path.read_bytes())
    except FileNotFoundError:
        return 0, 0
    numbers, offsets = _little_endian(pairs)[::2], pairs[1::2]
    at = bisect_right(numbers, start) - 1
    return (numbers[at], offsets[at]) if at >= 0 else (0, 0)


def _little_endian(pairs: array[int]) -> array[int]:
    if sys.byteorder == "big":
        pairs.byteswap()
    return pairs
