"""What is said of a dataset as a whole: how many rows, how varied its questions, what grade."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from tunesmith.data.checks.findings import FEW_ROWS, MANY_ROWS
from tunesmith.data.language import language_of
from tunesmith.data.scoring_records import Diversity, Opening, Quantity

# Two characters: 什么, 如何, 请解, 请问. With three, 如何 would be hidden by what follows it.
OPENING_CHARS = 2
# Fewer questions than this, or a smaller part of the dataset, say nothing about variety.
MIN_QUESTIONS = 10
MIN_SHARE = 0.2
_GRADES: tuple[tuple[float, Literal["A", "B", "C", "D"]], ...] = ((0.95, "A"), (0.9, "B"), (0.8, "C"), (0.6, "D"))


class Openings:
    """How the questions begin: by word, and by characters where there are no spaces between words."""

    def __init__(self) -> None:
        self._words: Counter[str] = Counter()
        self._characters: Counter[str] = Counter()
        self._distinct: set[int] = set()
        self._rows = 0

    def add(self, instruction: str) -> None:
        """Take the next question."""
        self._rows += 1
        question = instruction.strip()
        self._distinct.add(hash(question))
        if not question:
            return
        if language_of(question[:200]) == "zh":
            self._characters[question[:OPENING_CHARS]] += 1
        else:
            self._words[question.split(maxsplit=1)[0].casefold().strip(".,:;!?\"'")] += 1

    def diversity(self) -> Diversity:
        """The figures of at least one row."""
        return Diversity(
            unique_instructions=round(len(self._distinct) / self._rows, 4),
            by_word=_most_frequent(self._words),
            by_characters=_most_frequent(self._characters),
        )

    def speaks_for_the_dataset(self, opening: Opening) -> bool:
        """Whether there are enough questions of that language to judge their variety."""
        return opening.rows >= max(MIN_QUESTIONS, MIN_SHARE * self._rows)


def _most_frequent(openings: Counter[str]) -> Opening:
    total = openings.total()
    if not total:
        return Opening(opening="", share=0.0, rows=0)
    opening, count = openings.most_common(1)[0]
    return Opening(opening=opening[:40], share=round(count / total, 4), rows=total)


def quantity(rows: int) -> Quantity:
    """What a number of rows is good for."""
    if rows < 100:
        advice = (
            f"{rows} rows are too few to fine-tune on: prompting or retrieval will serve better. Aim for 500 to 2,000."
        )
    elif rows < FEW_ROWS:
        advice = f"{rows} rows teach a style, hardly knowledge. Aim for 500 to 2,000."
    elif rows <= MANY_ROWS:
        advice = f"{rows:,} rows are a good number for one subject."
    else:
        advice = f"{rows:,} rows are more than one subject needs; 2,000 to 5,000 good ones train faster and as well."
    return Quantity(rows=rows, advice=advice)


def grade(quality_rate: float) -> Literal["A", "B", "C", "D", "F"]:
    """A from 0.95 of rows without a finding, B from 0.90, C from 0.80, D from 0.60, F below."""
    for least, letter in _GRADES:
        if quality_rate >= least:
            return letter
    return "F"
