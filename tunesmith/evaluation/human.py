"""Scores that people give by hand, kept apart from a judge's: `human_scores.jsonl` in the comparison's folder.

The file only grows. The last line of one person about one answer counts; who named nobody is one person.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.data.decoding import tidy
from tunesmith.errors import Conflict, EmptyInput, InvalidArgument, NotFound
from tunesmith.evaluation.asking import AnswerFile
from tunesmith.evaluation.material import read_material
from tunesmith.evaluation.records import Answer, Comparison, Question
from tunesmith.evaluation.report_text import printable
from tunesmith.evaluation.store import ANSWERS_FILE, ComparisonStore
from tunesmith.files import raise_if_disk_full
from tunesmith.models.locking import locked
from tunesmith.records import Record
from tunesmith.workspace import Workspace

SCORES_FILE = "human_scores.jsonl"
LOCK_FILE = ".human_scores.lock"
MAX_NOTE_CHARS = 2000
MAX_NAME_CHARS = 60
NAMED = 4  # problems that an error names; the rest is counted

Via = Literal["tool", "cli", "sheet"]


class ScoreEntry(BaseModel):
    """A person's scores of one answer, from 1 (worst) to 5."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: int = Field(ge=1, description="Number of the question.")
    label: str = Field(min_length=1, max_length=200, description="Whose answer.", examples=["tuned"])
    domain_knowledge: int = Field(ge=1, le=5)
    response_style: int = Field(ge=1, le=5)
    accuracy: int = Field(ge=1, le=5)
    note: str | None = Field(default=None, max_length=MAX_NOTE_CHARS)


class HumanScore(Record):
    """One line of human_scores.jsonl."""

    at: str = Field(description="When it was recorded, ISO 8601, UTC.")
    by: str | None = Field(description="Who scored, as they call themselves.")
    via: Via = Field(description="How it came: the tool record_scores, the command line, or a filled sheet.")
    blind: bool = Field(description="Whether the person was not shown which model had answered.")
    question: int
    label: str
    domain_knowledge: int = Field(ge=1, le=5)
    response_style: int = Field(ge=1, le=5)
    accuracy: int = Field(ge=1, le=5)
    note: str | None = None

    @property
    def values(self) -> tuple[int, int, int]:
        """The scores in the order of the rubric's criteria."""
        return self.domain_knowledge, self.response_style, self.accuracy

    @property
    def total(self) -> int:
        return sum(self.values)


class HumanFile:
    """`human_scores.jsonl`. Whoever adds holds `lock` meanwhile, and while concluding anew from it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / SCORES_FILE
        self._lock_path = folder / LOCK_FILE

    def lock(self) -> AbstractContextManager[None]:
        """One process or thread at a time."""
        return locked(self._lock_path)

    def read(self) -> list[HumanScore]:
        """The scores that count, by question, label and person. Half a line, of a killed process, is skipped."""
        newest: dict[tuple[int, str, str | None], HumanScore] = {}
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else []:
            try:
                score = HumanScore.model_validate_json(line)
            except ValueError:
                continue
            newest[score.question, score.label, score.by] = score
        return sorted(newest.values(), key=lambda one: (one.question, one.label, one.by or ""))

    def add(self, scores: Sequence[HumanScore]) -> None:
        """Append whole lines; they are on the disk when this returns.

        Raises:
            DiskFull: there was no room.
        """
        lines = b"".join(score.model_dump_json().encode() + b"\n" for score in scores)
        try:
            with self.path.open("ab") as file:
                size = file.tell()
                try:
                    file.write(lines if self._ends_whole(size) else b"\n" + lines)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    # All of one call or none of it: the caller will make it again.
                    os.truncate(self.path, size)
                    raise
        except OSError as error:
            raise_if_disk_full(error, self.path)
            raise

    def _ends_whole(self, size: int) -> bool:
        if size == 0:
            return True
        with self.path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"


def record_scores(
    workspace: Workspace,
    comparison_id: str,
    entries: Sequence[ScoreEntry],
    *,
    by: str | None = None,
    via: Via = "tool",
    blind: bool = False,
    where: Sequence[str] | None = None,
) -> Comparison:
    """Keep what people say of answers, and conclude anew: all of the entries, or none where one is wrong.

    Args:
        entries: an answer once at most. What the same person said of it before does not count any more.
        by: who scored; None: nobody says.
        blind: whether the person was not shown which model had answered.
        where: what messages call each entry, such as its line; default: scores[0] and so on.

    Raises:
        InvalidArgument: not an id; an unknown question or label, the nearest one named; an answer twice; an answer
            that is an error, so that there is nothing to score.
        EmptyInput: no entries.
        NotFound: no such comparison. Conflict: it is not complete.
    """
    scored = scorable(workspace, comparison_id)
    if not entries:
        raise EmptyInput("There are no scores.", next="Give at least one: {question, label, and the three scores}.")
    check_entries(entries, scored, where)
    person, at = _name(by), datetime.now(UTC).isoformat(timespec="milliseconds")
    scores = [
        HumanScore(
            at=at, by=person, via=via, blind=blind, question=one.question, label=one.label.strip(),
            domain_knowledge=one.domain_knowledge, response_style=one.response_style, accuracy=one.accuracy,
            note=_note(one.note),
        )
        for one in entries
    ]  # fmt: skip
    from tunesmith.evaluation.concluding import reconclude

    file = HumanFile(scored.folder)
    with file.lock():
        file.add(scores)
        return reconclude(workspace, comparison_id)


@dataclass(frozen=True)
class Scorable:
    """A complete comparison as somebody who scores it needs it.

    Attributes:
        answers: what each model answered first, by question and label; failures among them.
        names: of the models, which their answers may betray.
    """

    folder: Path
    questions: Sequence[Question]
    labels: Sequence[str]
    answers: Mapping[tuple[int, str], Answer]
    seed: int
    names: Sequence[str]


def scorable(workspace: Workspace, comparison_id: str) -> Scorable:
    """A comparison's questions and answers.

    Raises:
        As `record_scores`; NotFound and StoreCorrupt too where what was gathered is not there or damaged.
    """
    store = ComparisonStore(workspace)
    try:
        folder = store.folder(comparison_id)
    except NotFound:
        raise _not_there(workspace, comparison_id) from None
    stored = read_material(folder)
    kept = {(label, key) for label, keys in stored.answer_keys.items() for key in keys}
    answers: dict[tuple[int, str], Answer] = {}
    for answer in AnswerFile(folder / ANSWERS_FILE).read():
        place = answer.question, answer.label
        if answer.repetition == 1 and (answer.label, answer.key) in kept:
            known = answers.get(place)
            if known is None or known.reply is None:
                answers[place] = answer
    return Scorable(
        folder=folder,
        questions=stored.questions,
        labels=[one.label for one in stored.contestants],
        answers=answers,
        seed=stored.sampling.seed,
        names=[
            *(one.name for one in stored.contestants),
            *(one.record.name for one in stored.contestants if one.record),
        ],
    )


def _not_there(workspace: Workspace, comparison_id: str) -> Conflict | NotFound:
    if (workspace.comparisons / comparison_id).is_dir():
        return Conflict(
            f"Comparison {comparison_id} is not complete: its answers are still being made, or its run ended early.",
            next="Call list_runs(kind='compare') and wait for its run, or compare again.",
        )
    near = difflib.get_close_matches(comparison_id, ComparisonStore(workspace).ids(), n=1, cutoff=0.8)
    return NotFound(
        f"There is no comparison {comparison_id} in this workspace.",
        next=f"Did you mean {near[0]}?" if near else "Call list_runs(kind='compare') to see those there are.",
    )


def check_entries(entries: Sequence[ScoreEntry], scored: Scorable, where: Sequence[str] | None = None) -> None:
    """Refuse scores of what is not there.

    Raises:
        InvalidArgument: naming the first few that are wrong, and how many more there are.
    """
    labels, last = scored.labels, len(scored.questions)
    seen: dict[tuple[int, str], str] = {}
    problems = []
    for index, entry in enumerate(entries):
        name, label = where[index] if where else f"scores[{index}]", entry.label.strip()
        place = entry.question, label
        answer = scored.answers.get(place)
        if entry.question > last:
            problems.append(f"{name}: there is no question {entry.question}; they are 1 to {last}")
        elif label not in labels:
            problems.append(f"{name}: {_unknown_label(label, labels)}")
        elif place in seen:
            problems.append(f"{name}: {label!r} in question {entry.question} stands in {seen[place]} already")
        elif answer is None or answer.reply is None:
            why = f" ({answer.error})" if answer and answer.error else ""
            problems.append(f"{name}: {label!r} gave no answer to question {entry.question}{why}; that is not scored")
        seen.setdefault(place, name)
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise InvalidArgument(
            f"{'; '.join(problems[:NAMED])}{more}. Nothing was recorded.",
            next=f"Correct that and record the scores again; the labels are {', '.join(labels)}.",
        )


def _unknown_label(label: str, labels: Sequence[str]) -> str:
    by_folded = {one.casefold(): one for one in labels}
    near = difflib.get_close_matches(label.casefold(), by_folded, n=1, cutoff=0.5)
    hint = f"; did you mean {by_folded[near[0]]!r}" if near else ""
    return f"no model has the label {label[:60]!r}{hint}"


def _note(text: str | None) -> str | None:
    """Plain text: a note is shown in terminals and reports."""
    return _plain(text).strip() or None if text else None


def _name(by: str | None) -> str | None:
    plain = " ".join(_plain(by).split()) if by else ""
    if len(plain) > MAX_NAME_CHARS:
        raise InvalidArgument(
            f"The name of who scored has {len(plain)} characters.", next=f"Use at most {MAX_NAME_CHARS}."
        )
    return plain or None


def _plain(text: str) -> str:
    return printable(tidy(text))
