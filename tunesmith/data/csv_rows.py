"""Tables of text: CSV with commas, tabs, semicolons or bars between the cells."""

from __future__ import annotations

import csv
import io
from typing import Any

from tunesmith.data.formats import RowRejected, detect
from tunesmith.data.records_read import MAX_ROW_BYTES, Records
from tunesmith.errors import BadInput

DELIMITERS = ",\t;|"
MAX_HEADER_CHARS = 2**16


def read_csv(file: io.TextIOWrapper, name: str) -> Records:
    """The rows of a table whose first line names its columns. A `sep=;` line before it, as Excel writes, is obeyed.

    Raises:
        BadInput: with no delimiter does the first line name the columns of a known format.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    before = 1
    header = file.readline(MAX_HEADER_CHARS).lstrip("\ufeff")
    delimiters = DELIMITERS
    said = header.strip("\r\n ")
    if said.lower().startswith("sep=") and len(said) == len("sep=") + 1:
        delimiters, before = said[-1], 2
        header = file.readline(MAX_HEADER_CHARS)
    for delimiter in delimiters:
        columns = [column.strip() for column in next(csv.reader([header], delimiter=delimiter), [])]
        if detect(dict.fromkeys(columns, "")) is not None:
            if len(set(columns)) < len(columns):
                raise BadInput(f"{name} has two columns of one name.", next="Give each column a name of its own.")
            return _csv_rows(csv.reader(file, delimiter=delimiter, strict=True), columns, before)
    raise BadInput(
        f"{name} is not JSON, JSONL or Parquet, and its first line names no columns of a known format.",
        next="Give rows with instruction and output, messages, conversations, prompt and completion, or two answers.",
    )


def _csv_rows(reader: Any, columns: list[str], before: int) -> Records:
    while True:
        line = reader.line_num + before + 1
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
