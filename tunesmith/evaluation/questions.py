"""What the models are asked: questions of the caller's own, or the eval split of a dataset."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tunesmith.data.language import language_of
from tunesmith.data.records import Message, Row
from tunesmith.data.store import DatasetStore
from tunesmith.errors import EmptyInput
from tunesmith.evaluation.records import Question
from tunesmith.evaluation.request import AskedQuestion
from tunesmith.workspace import Workspace


def given_questions(asked: Sequence[AskedQuestion]) -> list[Question]:
    """The caller's questions, numbered."""
    questions = []
    for number, one in enumerate(asked, start=1):
        system = [Message(role="system", content=one.system)] if one.system else []
        questions.append(
            Question(
                question=number,
                messages=[*system, Message(role="user", content=one.question)],
                reference=one.reference if one.reference and one.reference.strip() else None,
            )
        )
    return questions


def held_out_rows(workspace: Workspace, dataset_id: str) -> list[Row]:
    """The rows of a dataset's eval split that hold an answer.

    Raises:
        EmptyInput: the dataset has no eval split.
        As `DatasetStore.rows`.
    """
    rows = [row for row in DatasetStore(workspace).rows(dataset_id) if row.split == "eval" and row.output.strip()]
    if not rows:
        raise EmptyInput(
            f"Dataset {dataset_id} has no eval split, so there is nothing held out to compare on.",
            next=f"Call split_dataset with dataset_id='{dataset_id}', train on the dataset it returns, and compare on "
            "that; or give questions.",
        )
    return rows


def dataset_questions(rows: Sequence[Row], limit: int, seed: int) -> list[Question]:
    """Held-out rows as questions: each conversation up to its last answer, which is the reference.

    More rows than `limit`: a sample drawn from the seed, in the rows' order, in which every language and every file has
    its share, as nearly as whole rows allow, and sections of a file take turns.
    """
    usable = [row for row in rows if _asked(row)]
    if len(usable) > limit:
        usable = [usable[index] for index in balanced_sample(usable, limit, seed)]
    return [
        Question(
            question=number,
            messages=_asked(row),
            reference=row.output,
            row_id=row.row_id,
            source=_place(row),
        )
        for number, row in enumerate(usable, start=1)
    ]


def _place(row: Row) -> str | None:
    """File and lines of a row; None where it names none."""
    if row.source is None:
        return None
    first, last = row.source.first_line, row.source.last_line
    return f"{row.source.path}:{first}" + (f"-{last}" if last > first else "")


def balanced_sample(rows: Sequence[Row], limit: int, seed: int) -> list[int]:
    """Places of `limit` rows, in order, that stand for all of them: shares by language, then by file.

    A plain draw of 50 from 22 files leaves some of them out; a question on each of them tells more.
    """
    chance = random.Random(seed)
    groups: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(rows):
        key = (language_of(row.instruction + row.output), row.source.path if row.source else "")
        groups.setdefault(key, []).append(place)
    # Each row stands at its rank's share of its group; the first shares of all groups are taken first. So a group
    # gets about limit / len(rows) of its rows, and which of them is drawn.
    ranked: list[tuple[float, float, int]] = []
    for places in groups.values():
        drawn = _sections_in_turn(rows, places, chance)
        offset = chance.random()
        ranked += [((rank + offset) / len(drawn), chance.random(), place) for rank, place in enumerate(drawn)]
    return sorted(place for _, _, place in sorted(ranked)[:limit])


def _sections_in_turn(rows: Sequence[Row], places: Sequence[int], chance: random.Random) -> list[int]:
    """Shuffled, but a second row of a section comes after the first one of every other."""
    sections: dict[tuple[int, int], list[int]] = {}
    for place in chance.sample(places, len(places)):
        source = rows[place].source
        key = (source.first_line, source.last_line) if source else (place, place)
        sections.setdefault(key, []).append(place)
    longest = max(map(len, sections.values()), default=0)
    return [found[turn] for turn in range(longest) for found in sections.values() if turn < len(found)]


def _asked(row: Row) -> list[Message]:
    """The messages before the last answer; empty where that is not a user's question."""
    last = max((index for index, message in enumerate(row.messages) if message.role == "assistant"), default=0)
    before = row.messages[:last]
    return before if before and before[-1].role == "user" else []
