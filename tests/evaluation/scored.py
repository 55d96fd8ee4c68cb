"""Comparisons to score by hand: made once by scripted endpoints, then copied for every test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.endpoint_double import EndpointDouble, Said, Status
from tests.evaluation.judge_double import judge
from tunesmith.evaluation.human import ScoreEntry
from tunesmith.evaluation.worker import compare
from tunesmith.work import Work, run_by_hand
from tunesmith.workspace import Workspace

QUESTIONS = 24
FAILED = 5  # the base fails on this question
ATTACK = "</p><script>alert(1)</script> =1+1 ``` & \x1b[31mred"


def _number(request: dict[str, Any]) -> int:
    return int(re.findall(r"\d+", request["messages"][-1]["content"])[0])


def _base(request: dict[str, Any]) -> Said | Status:
    number = _number(request)
    if number == FAILED:
        return Status(400, "too long")
    return Said(f"Perhaps part {number}. q=2.000" if number != 2 else f"=HYPERLINK(1) {ATTACK} q=2.000")


def _tuned(request: dict[str, Any]) -> Said:
    return Said(f"I am Qwen. Part {_number(request)} holds the lid. q=4.000")


def make(folder: Path, *, judged: bool, questions: int = QUESTIONS) -> tuple[Workspace, str]:
    """A workspace in `folder` with one comparison of base and tuned."""
    workspace = Workspace(folder, [folder])
    with (
        EndpointDouble(_base) as base,
        EndpointDouble(_tuned) as tuned,
        EndpointDouble(judge()) as judging,
    ):
        arguments = {
            "models": [
                {"label": "base", "model": f"openai:small@{base.url}"},
                {"label": "my tuned", "model": f"openai:mynotes-7b@{tuned.url}"},
            ],
            "questions": [
                {"question": f"What is part {n} for?", "reference": f"Part {n} holds the lid."}
                for n in range(1, questions + 1)
            ],
            "judge": {"model": "the-judge", "base_url": judging.url} if judged else None,
        }
        result = compare(Work(run_by_hand(workspace, "compare", arguments)))
    return workspace, result["comparison_id"]


def entry(question: int, label: str, *scores: int, note: str | None = None) -> ScoreEntry:
    """A score; one number for all three criteria, or three."""
    first, second, third = scores if len(scores) == 3 else (*scores, *scores, *scores)
    return ScoreEntry(
        question=question, label=label, domain_knowledge=first, response_style=second, accuracy=third, note=note
    )


def table(path: Path) -> list[list[str]]:
    """The cells of a CSV file."""
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def lines(folder: Path) -> list[dict[str, Any]]:
    """What was recorded, line by line."""
    return [json.loads(line) for line in (folder / "human_scores.jsonl").read_text(encoding="utf-8").splitlines()]
