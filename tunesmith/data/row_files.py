"""Reading records out of JSONL, JSON, CSV and Parquet files, one at a time, whatever the file is called.

Every reader yields `(line, record)`; a record that cannot be read is a
`RowRejected` in its place, so that nothing disappears without a reason.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, Any, cast

from tunesmith.data.csv_rows import read_csv
from tunesmith.data.formats import RowRejected, detect
from tunesmith.data.json_array import checked, read_json_array
from tunesmith.data.records_read import MAX_ROW_BYTES, Records
from tunesmith.errors import BadInput, EmptyInput, MissingExtra, NotSupported

HEAD_BYTES = 256 * 2**10
_BLANK = b" \t\r\n"
_TOO_LONG = RowRejected(f"the line is longer than {MAX_ROW_BYTES // 2**20} MiB")
_GZIP = b"\x1f\x8b"
_PACKED = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def read_records(file: IO[bytes], name: str, opened: ExitStack) -> Records:
    """The records of a file, by what is in it.

    Args:
        file: open for reading, at its beginning, seekable.
        name: for messages; decides nothing but the case of a file that starts with neither `{` nor `[`.
        opened: closes, with `file`, what is opened over it; the records can be read until then.

    Raises:
        EmptyInput: nothing in it.
        BadInput: not one of the four kinds, or damaged beyond its rows.
        NotSupported: packed otherwise than with gzip, or larger than can be read whole where it must be.
        MissingExtra: Parquet without pyarrow.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if head.startswith(_GZIP):
        return _unpacked(file, name, opened)
    if head.startswith(b"PAR1"):
        return _read_parquet(file, name)
    for magic, kind in _PACKED.items():
        if head.startswith(magic):
            raise NotSupported(f"{name} is packed ({kind}).", next="Unpack it and import the file inside.")
    encoding = _encoding(head)
    start = head.decode(encoding, "ignore").lstrip("\ufeff \t\r\n")
    if not start:
        raise EmptyInput(f"{name} is empty.", next="Give a file with rows in it.")
    # In a cell of a table a NUL may stand; in its first line, which names the columns, it does not.
    if "\0" in start[:1024].partition("\n")[0]:
        raise BadInput(f"{name} is a binary file of an unknown kind.", next="Give JSON, JSONL, CSV or Parquet.")
    if start[0] == "[":
        return read_json_array(_text(file, encoding, opened), name)
    if start[0] == "{" or name.lower().endswith((".jsonl", ".ndjson")):
        return (
            _read_jsonl(file, encoding, opened)
            if _looks_like_lines(start, name)
            else _read_json_object(file, encoding, name)
        )
    return read_csv(_text(file, encoding, opened), name)


def _unpacked(file: IO[bytes], name: str, opened: ExitStack) -> Records:
    """The records of a file packed with gzip, unpacked as they are read."""
    inner = cast("IO[bytes]", opened.enter_context(gzip.GzipFile(fileobj=file)))
    damaged = BadInput(f"{name} is damaged: it cannot be unpacked to its end.", next="Pack or download it again.")
    try:
        start = inner.read(4)
        inner.seek(0)
        if start.startswith((b"PAR1", _GZIP)):
            raise NotSupported(f"{name} is packed twice over.", next="Unpack it and import the file inside.")
        records = read_records(inner, name.removesuffix(".gz"), opened)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged from error

    def to_the_end() -> Records:
        try:
            yield from records
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise damaged from error

    return to_the_end()


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
    """Numbered lines as UTF-8; never more than `MAX_ROW_BYTES` of one in memory."""
    if encoding not in ("utf-8", "utf-8-sig"):
        number = 0
        wide = _text(file, encoding, opened)
        while text := wide.readline(MAX_ROW_BYTES):
            number += 1
            if len(text) < MAX_ROW_BYTES or text.endswith("\n"):
                yield number, text.encode("utf-8", "surrogateescape")
                continue
            while (more_text := wide.readline(2**20)) and not more_text.endswith("\n"):
                pass
            yield number, _TOO_LONG
        return
    number = 0
    while line := file.readline(MAX_ROW_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) < MAX_ROW_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        while (more := file.readline(2**20)) and not more.endswith(b"\n"):
            pass
        yield number, _TOO_LONG


def _record(line: bytes) -> dict[str, Any] | RowRejected:
    import orjson

    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return RowRejected(f"not valid JSON: {error}"[:200])
    if not isinstance(value, dict):
        return RowRejected(f"a {type(value).__name__} is not a row; rows are objects")
    if any(type(field) is float and abs(field) >= 2**63 for field in value.values()):
        # A whole number over 64 bits is read as a float, which is another number.
        return checked(json.loads(line))
    return value


def _read_json_object(file: IO[bytes], encoding: str, name: str) -> Records:
    """A file that is one object: a row, or rows under one name."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size > MAX_ROW_BYTES:
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


def _read_parquet(file: IO[bytes], name: str) -> Records:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise MissingExtra("pyarrow", extra="train", purpose="read Parquet files") from error
    try:
        # Without a buffer of its own each column of a row group would be read whole.
        table = ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    except (ArrowException, OSError) as error:
        raise BadInput(f"{name} is not a readable Parquet file: {str(error)[:160]}.", next="Write it again.") from error
    return _parquet_rows(table.iter_batches, ArrowException, name)


def _parquet_rows(batches: Callable[..., Iterator[Any]], failure: type[Exception], name: str) -> Records:
    number = 0
    try:
        for batch in batches(batch_size=1000):
            for record in batch.to_pylist():
                number += 1
                yield number, checked(_without_nulls(record))
    except (failure, OSError) as error:
        raise BadInput(f"{name} is damaged after row {number}: {str(error)[:160]}.", next="Write it again.") from error


def _without_nulls(value: Any) -> Any:
    """A table has every column in every row: what a row did not say is null there."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value
