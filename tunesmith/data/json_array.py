"""A JSON array of any size, one element at a time."""

from __future__ import annotations

import io
import json
from typing import Any

from tunesmith.data.formats import RowRejected
from tunesmith.data.records_read import MAX_ROW_BYTES, Records
from tunesmith.errors import BadInput

CHUNK_CHARS = 2**20


def read_json_array(file: io.TextIOWrapper, name: str) -> Records:
    """The elements of one JSON array, without holding the array; each with the line it begins on.

    Raises:
        BadInput: not valid JSON to its end, or an element of more than 16 Mi characters.
    """
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    window = _Window(file)
    window.skip(" \t\r\n\ufeff")
    window.take(1)
    while True:
        window.skip(" \t\r\n,")
        following = window.peek()
        if following == "]":
            return
        if not following:
            raise BadInput(f"{name} ends in the middle of its array (line {window.line}).", next="Give the whole file.")
        line = window.line
        try:
            value = window.decode(decoder)
        except RecursionError:
            raise BadInput(f"{name} is nested too deeply at line {line}.", next="Remove that row.") from None
        except ValueError as error:
            raise BadInput(
                f"{name} is not valid JSON from line {line} on: {str(error)[:120]}.",
                next="Mend that line, or write the rows as JSONL, where one bad line costs only itself.",
            ) from error
        if isinstance(value, dict):
            yield line, checked(value)
        else:
            yield line, RowRejected(f"a {type(value).__name__} is not a row; rows are objects")


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def checked(record: dict[str, Any]) -> dict[str, Any] | RowRejected:
    """A record that can be written again: the standard parser lets lone surrogates and huge integers through."""
    import orjson

    try:
        orjson.dumps(record)
    except TypeError as error:
        return RowRejected(f"it cannot be kept as JSON: {error}"[:200])
    return record


class _Window:
    """A sliding piece of a text file, with the number of the line it starts on."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self._text = file.read(CHUNK_CHARS)
        self._at = 0
        self.line = 1

    def peek(self) -> str:
        """The next character, or "" at the end."""
        if self._at >= len(self._text):
            self._more()
        return self._text[self._at : self._at + 1]

    def take(self, count: int) -> None:
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def skip(self, characters: str) -> None:
        while (following := self.peek()) and following in characters:
            self.take(1)

    def decode(self, decoder: json.JSONDecoder) -> Any:
        """The JSON value that starts here. A value that is cut off by the window makes it longer."""
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
            except ValueError:
                if len(self._text) - self._at > MAX_ROW_BYTES:
                    raise ValueError(f"a row is longer than {MAX_ROW_BYTES // 2**20} MiB or has no end") from None
                if not self._more():
                    raise
                continue
            # A number can look whole and go on beyond the window.
            if end < len(self._text) or not self._more():
                self.take(end - self._at)
                return value

    def _more(self) -> bool:
        # As much again as is there: a value of any size is parsed a logarithmic number of times.
        addition = self._file.read(max(CHUNK_CHARS, len(self._text) - self._at))
        self._text = self._text[self._at :] + addition
        self._at = 0
        return bool(addition)
