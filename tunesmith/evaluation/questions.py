"""What the models are asked: questions of the caller's own, or the eval split of a dataset."""

from __future__ import annotations

import random
from collections.abc import Sequence

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

    More rows than `limit`: a sample drawn from the seed, in the rows' order.
    """
    usable = [row for row in rows if _asked(row)]
    if len(usable) > limit:
        chosen = sorted(random.Random(seed).sample(range(len(usable)), limit))
        usable = [usable[index] for index in chosen]
    return [
        Question(question=number, messages=_asked(row), reference=row.output, row_id=row.row_id)
        for number, row in enumerate(usable, start=1)
    ]


def _asked(row: Row) -> list[Message]:
    """The messages before the last answer; empty where that is not a user's question."""
    last = max((index for index, message in enumerate(row.messages) if message.role == "assistant"), default=0)
    before = row.messages[:last]
    return before if before and before[-1].role == "user" else []
