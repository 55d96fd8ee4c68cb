"""Reading what a person filled in: a sheet, or scores by label, as CSV, JSON or JSONL."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith.data.decoding import decode
from tunesmith.errors import BadInput, EmptyInput, InvalidArgument
from tunesmith.evaluation.human import NAMED, ScoreEntry
from tunesmith.evaluation.human_sheet import CRITERIA, SheetKey, read_key
from tunesmith.workspace import Workspace

DELIMITERS = ",;\t|"
MAX_CELL = 2**24
_WHOLE = re.compile(r"([0-9]{1,10})(?:[.,]0+)?")


@dataclass
class Filled:
    """What was filled in.

    Attributes:
        where: what messages call each entry.
        blind: whether the file is a sheet, so that nobody saw whose answers they scored.
        empty: lines without any score.
    """

    entries: list[ScoreEntry] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    blind: bool = False
    empty: int = 0
    problems: list[str] = field(default_factory=list)


def read_filled(workspace: Workspace, comparison_id: str, content: bytes, name: str) -> Filled:
    """The scores in a file. Lines without any score are passed over: a sheet may be filled in part.

    Args:
        content: of the file; `name` is what messages call it.

    Raises:
        BadInput: it is no table of scores. EmptyInput: nothing is filled in.
        InvalidArgument: lines that are wrong, the first few named; or a sheet of another comparison.
        NotFound, StoreCorrupt: the sheet's key is not there or damaged.
    """
    if content.startswith(b"PK\x03\x04"):
        raise BadInput(f"{name} is a workbook.", next="In the spreadsheet save it as CSV (UTF-8), and give that file.")
    text = decode(content)
    if text is None:
        raise BadInput(f"{name} is not text.", next="Give the filled sheet as CSV, or scores as JSON.")
    filled = Filled()
    if text.lstrip()[:1] in ("[", "{"):
        _read_json(text, name, filled)
    else:
        _read_table(text, name, workspace.comparisons / comparison_id, comparison_id, filled)
    if filled.problems:
        count = len(filled.problems)
        more = f"; and {count - NAMED} more" if count > NAMED else ""
        raise InvalidArgument(
            f"{name}: {'; '.join(filled.problems[:NAMED])}{more}. Nothing was recorded.",
            next="Scores are whole numbers from 1 to 5, all three of an answer. Correct the file and record it again.",
        )
    if not filled.entries:
        raise EmptyInput(f"{name} holds no score.", next="Fill in the three scores of at least one answer.")
    return filled


def _read_json(text: str, name: str, filled: Filled) -> None:
    try:
        found = json.loads(text)
        numbered = [(f"entry {place}", one) for place, one in enumerate(_listed(found), start=1)]
    except ValueError:
        numbered = []
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    numbered.append((f"line {number}", json.loads(line)))
                except ValueError:
                    raise BadInput(f"Line {number} of {name} is not JSON.", next="Correct that line.") from None
    for where, one in numbered:
        _add(filled, where, one)


def _listed(found: Any) -> list[Any]:
    if isinstance(found, dict) and isinstance(found.get("scores"), list):
        return found["scores"]  # the arguments of record_scores, as they stand
    return found if isinstance(found, list) else [found]


def _read_table(text: str, name: str, folder: Path, comparison_id: str, filled: Filled) -> None:
    csv.field_size_limit(MAX_CELL)
    lines, skipped = io.StringIO(text, newline=""), 0
    first = lines.readline()
    delimiters = DELIMITERS
    if first.strip().lower().startswith("sep=") and len(first.strip()) == len("sep=") + 1:
        delimiters, skipped, first = first.strip()[-1], 1, lines.readline()
    for delimiter in delimiters:
        columns = [cell.strip().casefold() for cell in next(csv.reader([first], delimiter=delimiter), [])]
        if "question" in columns and set(CRITERIA) <= set(columns):
            break
    else:
        raise BadInput(
            f"The first line of {name} does not name the columns question, {', '.join(CRITERIA)}.",
            next=f"Make a sheet with `tunesmith score-sheet {comparison_id}` and fill it in.",
        )
    if "label" not in columns and not {"answer", "sheet"} <= set(columns):
        raise BadInput(
            f"{name} names neither labels (column label) nor the letters of a sheet (columns sheet, answer).",
            next=f"Make a sheet with `tunesmith score-sheet {comparison_id}` and fill it in.",
        )
    filled.blind = "label" not in columns
    keys: dict[int, SheetKey] = {}
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        where = f"line {reader.line_num + skipped + 2}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            filled.problems.append(f"{where}: {error}")
            continue
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        if not any(row.get(criterion) for criterion in CRITERIA):
            filled.empty += bool(any(cells))
            continue
        other = row.get("comparison")
        if other and other != comparison_id:
            raise InvalidArgument(
                f"{where} of {name} is of comparison {other[:40]}, not of {comparison_id}.",
                next=f"Record it there: tunesmith record-scores {other[:40]} {name}.",
            )
        _add_row(filled, where, row, folder, keys)


def _add_row(filled: Filled, where: str, row: dict[str, str], folder: Path, keys: dict[int, SheetKey]) -> None:
    question, wrong = _number(row.get("question", "")), []
    if question is None:
        wrong.append(f"question {row.get('question', '')[:20]!r} is no number")
    scores: dict[str, int] = {}
    for criterion in CRITERIA:
        said = row.get(criterion, "")
        value = _number(said)
        if not said:
            wrong.append(f"{criterion} is missing")
        elif value is None or not 1 <= value <= 5:
            wrong.append(f"{criterion} is {said[:20]!r}")
        else:
            scores[criterion] = value
    label = row.get("label")
    if label is None and question is not None:
        label = _behind(row, question, folder, keys)
        if label is None:
            wrong.append(f"question {question} has no answer {row.get('answer', '')[:20]!r} on this sheet")
    if wrong:
        filled.problems.append(f"{where}: {', '.join(wrong)}")
        return
    _add(filled, where, {"question": question, "label": label, **scores, "note": _unquoted(row.get("note")) or None})


def _behind(row: dict[str, str], question: int, folder: Path, keys: dict[int, SheetKey]) -> str | None:
    """Whose answer a letter of a sheet is."""
    seed = _number(row.get("sheet", ""))
    if seed is None:
        return None
    if seed not in keys:
        keys[seed] = read_key(folder, seed)
    return keys[seed].letters.get(question, {}).get(row.get("answer", "").upper())


def _add(filled: Filled, where: str, one: Any) -> None:
    try:
        filled.entries.append(ScoreEntry.model_validate(one))
        filled.where.append(where)
    except ValidationError as error:
        wrong = [_said(problem["loc"], problem["msg"]) for problem in error.errors()]
        filled.problems.append(f"{where}: {', '.join(wrong[:NAMED])}")


def _unquoted(text: str | None) -> str | None:
    """Without the mark that keeps a spreadsheet from reading a formula."""
    return text[1:] if text and text[0] == "'" and text[1:2] in tuple("=+-@") else text


def _said(place: Sequence[int | str], message: str) -> str:
    return f"{'.'.join(map(str, place)) or 'it'}: {message[0].lower()}{message[1:]}"


def _number(text: str) -> int | None:
    """A whole number as people and spreadsheets write it: full-width digits and 4.0 too."""
    match = _WHOLE.fullmatch(unicodedata.normalize("NFKC", text).strip())
    return int(match[1]) if match else None
