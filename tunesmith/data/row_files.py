"""Reading records out of JSONL, JSON, CSV and Parquet files, one at a time, whatever the file is called.

Every reader yields `(line, record)`; a record that cannot be read is a
`RowRejected` in its place, so that nothing disappears without a reason.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, Any

from tunesmith.data.formats import RowRejected, detect
from tunesmith.errors import BadInput, EmptyInput, MissingExtra, NotSupported

Records = Iterator[tuple[int, dict[str, Any] | RowRejected]]

MAX_LINE_BYTES = 16 * 2**20
HEAD_BYTES = 256 * 2**10
CHUNK_CHARS = 2**20
_BLANK = b" \t\r\n"
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def read_records(file: IO[bytes], name: str, opened: ExitStack) -> Records:
    """The records of a file, by what is in it.

    Args:
        file: open for reading, at its beginning, seekable.
        name: for messages; decides nothing but the case of a file that starts with neither `{` nor `[`.
        opened: closes, with `file`, what is opened over it; the records can be read until then.

    Raises:
        EmptyInput: nothing in it.
        BadInput: not one of the four kinds, or damaged beyond its rows.
        NotSupported: packed, or larger than can be read whole where it must be.
        MissingExtra: Parquet without pyarrow.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if head.startswith(b"PAR1"):
        return _read_parquet(file, name)
    for magic, kind in _PACKED.items():
        if head.startswith(magic):
            raise NotSupported(f"{name} is packed ({kind}).", next="Unpack it and import the file inside.")
    encoding = _encoding(head)
    start = head.decode(encoding, "ignore").lstrip("\ufeff \t\r\n")
    if not start:
        raise EmptyInput(f"{name} is empty.", next="Give a file with rows in it.")
    if "\0" in start[:1024]:
        raise BadInput(f"{name} is a binary file of an unknown kind.", next="Give JSON, JSONL, CSV or Parquet.")
    if start[0] == "[":
        return _read_json_array(_text(file, encoding, opened), name)
    if start[0] == "{" or name.lower().endswith((".jsonl", ".ndjson")):
        return (
            _read_jsonl(file, encoding, opened)
            if _looks_like_lines(start, name)
            else _read_json_object(file, encoding, name)
        )
    return _read_csv(_text(file, encoding, opened), name)


def _encoding(head: bytes) -> str:
    """BOM first, then UTF-8, then what the bytes look like."""
    boms = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    for bom, encoding in boms:
        if head.startswith(bom):
            return encoding
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(head[:65536]).best()
        # A few bad bytes in a UTF-8 file must not turn all its text into another encoding's.
        if best is None or head.decode("utf-8", "replace").count("\ufffd") < len(head) / 100:
            return "utf-8"
        return "gb18030" if best.encoding in ("gb2312", "gbk", "gb18030", "big5", "cp949", "johab") else best.encoding
    return "utf-8"


def _text(file: IO[bytes], encoding: str, opened: ExitStack) -> io.TextIOWrapper:
    return opened.enter_context(io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline=""))


def _looks_like_lines(start: str, name: str) -> bool:
    """Whether `start` is one JSON object a line, rather than one object over many lines."""
    lines = [line for line in start.splitlines()[:50] if line.strip()]
    complete = sum(_is_object(line) for line in lines[:20])
    if complete:
        return complete > 1 or len(lines) == 1 or _is_object(lines[0])
    return name.lower().endswith((".jsonl", ".ndjson"))


def _is_object(line: str) -> bool:
    import orjson

    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _read_jsonl(file: IO[bytes], encoding: str, opened: ExitStack) -> Records:
    for number, line in _lines(file, encoding, opened):
        if isinstance(line, RowRejected):
            yield number, line
        elif line.strip(_BLANK):
            yield number, _record(line)


def _lines(file: IO[bytes], encoding: str, opened: ExitStack) -> Iterator[tuple[int, bytes | RowRejected]]:
    """Numbered lines as UTF-8; never more than `MAX_LINE_BYTES` of one in memory."""
    if encoding not in ("utf-8", "utf-8-sig"):
        for number, text in enumerate(_text(file, encoding, opened), start=1):
            yield number, text.encode("utf-8", "surrogateescape")
        return
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        while (more := file.readline(2**20)) and not more.endswith(b"\n"):
            pass
        yield number, RowRejected(f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")


def _record(line: bytes) -> dict[str, Any] | RowRejected:
    import orjson

    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return RowRejected(f"not valid JSON: {error}"[:200])
    return value if isinstance(value, dict) else RowRejected(f"a {type(value).__name__} is not a row; rows are objects")


def _read_json_object(file: IO[bytes], encoding: str, name: str) -> Records:
    """A file that is one object: a row, or rows under one name."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size > MAX_LINE_BYTES:
        raise NotSupported(
            f"{name} is one JSON object of {size / 2**20:.0f} MiB.", next="Write its rows as JSONL, one a line."
        )
    document = _record(file.read().decode(encoding, "surrogateescape").encode("utf-8", "surrogateescape"))
    if isinstance(document, RowRejected):
        raise BadInput(f"{name} cannot be read: {document}.", next="Give a JSON array of rows, or one object a line.")
    if detect(document) is not None:
        return iter([(1, document)])
    lists = [value for value in document.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) != 1:
        raise BadInput(
            f"{name} is one JSON object that is not a row and does not hold exactly one list of rows.",
            next="Give a JSON array of rows, or one object a line.",
        )
    return (
        (number, entry if isinstance(entry, dict) else RowRejected("not an object"))
        for number, entry in enumerate(lists[0], start=1)
    )


def _read_json_array(file: io.TextIOWrapper, name: str) -> Records:
    """The elements of one JSON array, without holding the array."""
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
            yield line, _checked(value)
        else:
            yield line, RowRejected(f"a {type(value).__name__} is not a row; rows are objects")


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _checked(record: dict[str, Any]) -> dict[str, Any] | RowRejected:
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


def _read_csv(file: io.TextIOWrapper, name: str) -> Records:
    csv.field_size_limit(MAX_LINE_BYTES)
    header = file.readline(2**16).lstrip("\ufeff")
    delimiter = max(",\t;", key=header.count)
    columns = next(csv.reader([header], delimiter=delimiter), [])
    columns = [column.strip() for column in columns]
    if detect(dict.fromkeys(columns, "")) is None:
        raise BadInput(
            f"{name} is not JSON, JSONL or Parquet, and its first line names no columns of a known format.",
            next="Give rows with instruction and output, messages, conversations, or prompt and completion.",
        )
    return _csv_rows(csv.reader(file, delimiter=delimiter, strict=True), columns)


def _csv_rows(reader: Any, columns: list[str]) -> Records:
    while True:
        line = reader.line_num + 2  # the header was read before
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, RowRejected(f"not valid CSV: {error}")
            continue
        if not cells:
            continue
        if len(cells) != len(columns):
            yield line, RowRejected(f"{len(cells)} cells where the header names {len(columns)}")
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell if character > "\ud7ff"):
            yield line, RowRejected("its bytes are not valid in the file's encoding")
        else:
            yield line, dict(zip(columns, cells, strict=True))


def _read_parquet(file: IO[bytes], name: str) -> Records:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise MissingExtra("pyarrow", extra="train", purpose="read Parquet files") from error
    try:
        table = ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise BadInput(f"{name} is not a readable Parquet file: {str(error)[:160]}.", next="Write it again.") from error
    return _parquet_rows(table.iter_batches, ArrowException, name)


def _parquet_rows(batches: Callable[..., Iterator[Any]], failure: type[Exception], name: str) -> Records:
    number = 0
    try:
        for batch in batches(batch_size=1000):
            for record in batch.to_pylist():
                number += 1
                yield number, _checked({key: value for key, value in record.items() if value is not None})
    except (failure, OSError) as error:
        raise BadInput(f"{name} is damaged after row {number}: {str(error)[:160]}.", next="Write it again.") from error
