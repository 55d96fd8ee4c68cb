"""What the compared models were trained on: for the memorised share, for leaks, for the lineage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tunesmith.data.store import DatasetStore
from tunesmith.errors import NotFound
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.metrics import TrainingText
from tunesmith.evaluation.records import Question
from tunesmith.evaluation.worth import Cost
from tunesmith.evaluation.worth_facts import notes_of
from tunesmith.workspace import Workspace


class TrainingData:
    """The training rows behind a comparison.

    Args:
        dataset_id: the dataset the questions come from, None when they were given. Its training rows stand in where
            no compared model was trained here.

    Attributes:
        missing: datasets that models were trained on and that are gone.
    """

    def __init__(self, workspace: Workspace, contestants: Sequence[Contestant], dataset_id: str | None) -> None:
        self._store = DatasetStore(workspace)
        self._asked = dataset_id
        self._of = {one.label: one.record.dataset_id for one in contestants if one.record and one.record.dataset_id}
        self.missing: list[str] = []
        self._answers: dict[str, list[str]] = {}
        self._instructions: set[str] = set()
        for identity in dict.fromkeys(self._of.values() or filter(None, [dataset_id])):
            self._read(identity)

    @property
    def datasets(self) -> list[str]:
        """Ids of every dataset involved that is there."""
        return list(dict.fromkeys([*([self._asked] if self._asked else []), *self._answers]))

    def text_of(self, label: str) -> TrainingText | None:
        """What a model was trained on; for one that was not trained here, what all the others were."""
        own = self._of.get(label)
        answers = self._answers.get(own, []) if own else [text for texts in self._answers.values() for text in texts]
        return TrainingText(answers) if answers else None

    def leaked(self, questions: Sequence[Question]) -> int:
        """Questions that stand word for word in the training rows."""
        return sum(_plain(question.text) in self._instructions for question in questions)

    def lineage(self) -> list[dict[str, Any]]:
        """Each dataset's id, name, size, parents and digest."""
        wanted = {"dataset_id", "name", "rows", "splits", "parents", "created_by", "created_at", "sha256"}
        return [self._store.get(identity).model_dump(mode="json", include=wanted) for identity in self.datasets]

    def heldout_dataset(self) -> str | None:
        """The dataset whose eval split the held-out loss is measured on; None where there is none to agree on."""
        candidates = [self._asked] if self._asked else list(dict.fromkeys(self._of.values()))
        if len(candidates) != 1 or candidates[0] in self.missing:
            return None
        return candidates[0] if self._store.get(candidates[0]).splits.eval else None

    def _read(self, identity: str) -> None:
        try:
            rows = self._store.rows(identity)
        except NotFound:
            self.missing.append(identity)
            return
        answers = self._answers.setdefault(identity, [])
        for row in rows:
            if row.split != "eval":
                answers.append(row.output)
                self._instructions.add(_plain(row.instruction))


def cost_of(workspace: Workspace, one: Contestant) -> Cost | None:
    """What training a model cost, and what its notes are like now; None when it was not trained here."""
    if one.record is None:
        return None
    record = one.record
    rows = (record.training.get("rows") or {}).get("train")
    device, processes = record.training.get("device"), record.recipe.get("processes")
    seconds = _training_seconds(workspace, record.run_id)
    notes = notes_of(workspace, record.dataset_id)
    return Cost(
        rows if isinstance(rows, int) else None,
        seconds,
        device=device if isinstance(device, str) else None,
        devices=processes if isinstance(processes, int) and processes > 0 else 1,
        files=notes.files if notes else 0,
        dated=notes.dated if notes else 0,
        changed=notes.changed if notes else None,
    )


def loss_curve(one: Contestant) -> dict[str, list[tuple[int, float]]]:
    """The losses its training run measured, (step, nats a token): `loss` and `eval_loss`. Empty where there are none.

    A step that was taken twice, after memory ran out, counts the last time.
    """
    found: dict[str, dict[int, float]] = {"loss": {}, "eval_loss": {}}
    if one.record is not None and one.record.training.get("objective") == "dpo":
        return {}  # losses of pairs
    path = one.workspace.runs / (one.record.run_id if one.record and one.record.run_id else "-") / "metrics.jsonl"
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        for name, points in found.items():
            if isinstance(line.get("step"), int) and isinstance(line.get(name), float):
                points[line["step"]] = line[name]
    return {name: sorted(points.items()) for name, points in found.items() if len(points) > 1}


def _training_seconds(workspace: Workspace, run_id: str | None) -> float | None:
    """Of a run and of those it went on from; None where the last one's result is gone."""
    last = _run_seconds(workspace, run_id)
    if run_id is None or last is None:
        return None
    total, seen = last, {run_id}
    while (run_id := _resumed(workspace, run_id)) and run_id not in seen:
        seen.add(run_id)
        total += _run_seconds(workspace, run_id) or 0.0
    return total


def _resumed(workspace: Workspace, run_id: str) -> str | None:
    with workspace.database.transaction() as connection:
        found = connection.execute("SELECT resume_of FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return found[0] if found else None


def _run_seconds(workspace: Workspace, run_id: str | None) -> float | None:
    """From the result it left, or from its times where it left none, having been cancelled or lost."""
    if run_id is None:
        return None
    try:
        content = json.loads((workspace.runs / run_id / "result.json").read_text(encoding="utf-8"))
        return float(content["result"]["duration_s"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with workspace.database.transaction() as connection:
        times = connection.execute("SELECT started_at, finished_at FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if times is None or None in tuple(times):
        return None
    started, finished = (datetime.fromisoformat(time) for time in times)
    return (finished - started).total_seconds()


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
