"""A sheet on which a person scores answers without seeing who wrote them, as a table (CSV).

Who sees names is biased. On a sheet each question's answers stand in an order of their own, drawn from a seed, under
letters; names are taken out of their texts. Which letter is whose is kept in the comparison's folder, not in the
sheet. A filled sheet is read by `human_reading`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from tunesmith.errors import EmptyInput, InvalidArgument, NotFound, StoreCorrupt
from tunesmith.evaluation.hiding import name_hider
from tunesmith.evaluation.human import Scorable, scorable
from tunesmith.evaluation.report_text import printable
from tunesmith.files import write_atomic
from tunesmith.records import Record
from tunesmith.workspace import Workspace

LETTERS = "ABCDEFGHIJKLMNOP"
CRITERIA = ("domain_knowledge", "response_style", "accuracy")
COLUMNS = ("comparison", "sheet", "question", "answer", *CRITERIA, "note", "asked", "reference", "text")
# What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
ANCHORS = {
    "domain_knowledge": (
        "wrong, or not about the question",
        "only generalities",
        "the basic ideas, rightly",
        "details that matter, and how they hang together",
        "the insight of somebody who has done it",
    ),
    "response_style": (
        "mechanical, without order",
        "ordered but stiff",
        "clear and well ordered",
        "natural, as a person would write it",
        "a manner of its own that one remembers",
    ),
    "accuracy": (
        "several errors",
        "some errors",
        "right in the main, small flaws",
        "right, no visible error",
        "right in all, fit to be the reference",
    ),
}


class SheetKey(Record):
    """Which letter is whose; sheet-SEED.key.json in the comparison's folder."""

    comparison_id: str
    seed: int
    letters: dict[int, dict[str, str]] = Field(description="By question, the label behind each letter.")


@dataclass(frozen=True)
class Shown:
    """One answer on a sheet."""

    letter: str
    text: str


@dataclass(frozen=True)
class SheetQuestion:
    """One question on a sheet, its answers in the sheet's order."""

    number: int
    asked: str
    reference: str | None
    answers: list[Shown]


@dataclass(frozen=True)
class Sheet:
    """What a person is given to score."""

    comparison_id: str
    seed: int
    questions: list[SheetQuestion]

    @property
    def answers(self) -> int:
        return sum(len(one.answers) for one in self.questions)


def make_sheet(workspace: Workspace, comparison_id: str, *, seed: int | None = None, most: int | None = None) -> Sheet:
    """Lay out a sheet and keep its key. The same seed lays it out the same.

    Args:
        seed: of the order and of the choice; None: the comparison's.
        most: questions on it at most, drawn from all; None: every one.

    Raises:
        EmptyInput: no question has an answer. InvalidArgument: `most` below 1.
        As `scorable`.
    """
    if most is not None and most < 1:
        raise InvalidArgument(f"{most} is not a number of questions.", next="Give 1 or more, or leave it out.")
    scored = scorable(workspace, comparison_id)
    seed = scored.seed if seed is None else seed
    order = {number: _order(scored, number, comparison_id, seed) for number in range(1, len(scored.questions) + 1)}
    # Where only one model answered there is nothing to compare; such questions are shown last in line to be drawn.
    there = sorted((number for number, labels in order.items() if labels), key=lambda number: -len(order[number]))
    if not there:
        raise EmptyInput(f"No question of {comparison_id} has an answer.", next="Compare again with compare_models.")
    if most is not None and most < len(there):
        drawn = random.Random(f"{comparison_id} {seed}").sample(there, len(there))
        there = sorted(drawn, key=lambda number: -len(order[number]))[:most]
    key = SheetKey(
        comparison_id=comparison_id,
        seed=seed,
        letters={number: dict(zip(LETTERS, labels, strict=False)) for number, labels in order.items() if labels},
    )
    write_atomic(_key_path(scored.folder, seed), key.model_dump_json(indent=1))
    hide = name_hider(scored.labels, scored.names, scored.questions)
    questions = []
    for number in sorted(there):
        question = scored.questions[number - 1]
        asked = "\n\n".join(
            turn.content if turn.role == "user" else f"[{turn.role}] {turn.content}" for turn in question.messages
        )
        answers = [
            Shown(letter, printable(hide(scored.answers[number, label].reply or "")))
            for letter, label in zip(LETTERS, order[number], strict=False)
        ]
        reference = None if question.reference is None else printable(question.reference)
        questions.append(SheetQuestion(number, printable(asked), reference, answers))
    return Sheet(comparison_id, seed, questions)


def read_key(folder: Path, seed: int) -> SheetKey:
    """The key of a sheet.

    Raises:
        NotFound: no sheet was made with that seed. StoreCorrupt: the key is damaged.
    """
    path = _key_path(folder, seed)
    try:
        return SheetKey.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(
            f"The key of sheet {seed} is not there ({path}), so nobody knows whose answers were scored.",
            next=f"Make the sheet anew with the same seed: tunesmith score-sheet {folder.name} --seed {seed}.",
        ) from error
    except ValueError as error:
        raise StoreCorrupt(
            f"{path} is damaged.",
            next=f"Make the sheet anew with the same seed: tunesmith score-sheet {folder.name} --seed {seed}.",
        ) from error


def sheet_csv(sheet: Sheet) -> bytes:
    """The sheet as a table for a spreadsheet: UTF-8 with its mark, one line an answer, the scores empty."""
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(COLUMNS)
    for one in sheet.questions:
        for answer in one.answers:
            texts = (one.asked, one.reference or "", answer.text)
            place = (sheet.comparison_id, sheet.seed, one.number, answer.letter)
            table.writerow([*place, "", "", "", "", *(_harmless(text) for text in texts)])
    return b"\xef\xbb\xbf" + file.getvalue().encode("utf-8", "replace")


def _order(scored: Scorable, number: int, comparison_id: str, seed: int) -> Sequence[str]:
    """The labels that answered a question, in an order that has nothing to do with that of other questions."""
    labels = sorted(label for label in scored.labels if _replied(scored, number, label))
    digest = hashlib.sha256(f"{comparison_id} {seed} {number}".encode()).digest()
    random.Random(digest).shuffle(labels)
    return labels


def _replied(scored: Scorable, number: int, label: str) -> bool:
    answer = scored.answers.get((number, label))
    return answer is not None and answer.reply is not None


def _key_path(folder: Path, seed: int) -> Path:
    return folder / f"sheet-{seed}.key.json"


def _harmless(text: str) -> str:
    """What no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
