"""Questions out of a file: a list in JSON, JSONL, a table with a column `question`, or plain lines of text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError

from tunesmith.data.decoding import decode
from tunesmith.errors import BadInput, EmptyInput
from tunesmith.evaluation.request import AskedQuestion

FIELDS = tuple(AskedQuestion.model_fields)
MAX_CELL = 2**24
_ADVICE = 'Write each as {"question": …, "reference": …}, with the reference left out where there is none.'


def read_questions(content: bytes, name: str) -> list[AskedQuestion]:
    """The questions in a file, in its order.

    Args:
        content: of the file; what is in it decides how it is read, and for tables the ending of `name`.

    Raises:
        BadInput: no such file, or an entry that is no question, by its place. EmptyInput: there is none.
    """
    text = decode(content)
    if text is None:
        raise BadInput(f"{name} is not text.", next="Give questions as JSON, JSONL, CSV or lines of text.")
    start = text.lstrip()[:1]
    if start == "[":
        found = _json(text, name)
    elif start == "{":
        found = _json_lines(text, name)
    elif PurePath(name).suffix.lower() in (".csv", ".tsv"):
        found = _table(text, name)
    else:
        found = [(f"line {number}", line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise EmptyInput(f"{name} holds no question.", next=_ADVICE)
    return [_question(where, one, name) for where, one in found]


def _json(text: str, name: str) -> list[tuple[str, Any]]:
    try:
        return [(f"entry {place}", one) for place, one in enumerate(json.loads(text), start=1)]
    except ValueError as error:
        raise BadInput(f"{name} is not JSON: {error}.", next="Correct that place.") from error


def _json_lines(text: str, name: str) -> list[tuple[str, Any]]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                found.append((f"line {number}", json.loads(line)))
            except ValueError as error:
                raise BadInput(f"Line {number} of {name} is not JSON: {error}.", next="Correct that line.") from error
    return found


def _table(text: str, name: str) -> list[tuple[str, Any]]:
    csv.field_size_limit(MAX_CELL)
    first = text.partition("\n")[0]
    for delimiter in ",;\t":
        if "question" in [cell.strip().casefold() for cell in next(csv.reader([first], delimiter=delimiter), [])]:
            break
    else:
        raise BadInput(
            f"The first line of {name} names no column question.", next="Name the columns in the first line."
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [cell.strip().casefold() for cell in next(reader)]
    found = []
    for cells in reader:
        row = dict(zip(columns, cells, strict=False))
        kept = {field: row[field] for field in FIELDS if row.get(field, "").strip()}
        if kept:
            found.append((f"line {reader.line_num}", kept))
    return found


def _question(where: str, one: Any, name: str) -> AskedQuestion:
    try:
        return AskedQuestion.model_validate({"question": one} if isinstance(one, str) else one)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise BadInput(f"{where.capitalize()} of {name} is no question: {what}.", next=_ADVICE) from error
