"""Runs outlive servers, end in one state, and are never two where one was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.conftest import WORKER, began, ended
from tunesmith.errors import InvalidArgument, NotFound
from tunesmith.runs.supervisor import Supervisor


def test_a_run_that_ends_well_has_its_result_log_and_progress(runs: Supervisor) -> None:
    run = ended(runs, runs.submit("score", WORKER, {"steps": 3}))
    assert run.state == "succeeded"
    assert run.result == {"counted": 3}
    assert run.log_tail == ["step 1", "step 2", "step 3"]
    assert run.progress.fraction == 1.0
    assert runs.store.events(run.run_id) == [
        (None, "queued"),
        ("queued", "starting"),
        ("starting", "running"),
        ("running", "succeeded"),
    ]


def test_a_failed_run_says_what_happened_and_what_to_do(runs: Supervisor) -> None:
    run = ended(runs, runs.submit("score", WORKER, {"fail": True}))
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.code == "bad_input"
    assert run.next == "Ask for something else."


def test_a_second_training_waits_for_the_first_and_names_it(runs: Supervisor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = runs.submit("train", WORKER, {"until": str(gate)}, slots=("device0",))
    second = runs.submit("train", WORKER, {}, slots=("device0",))
    began(runs, first)
    waiting = runs.view(second)
    assert waiting.state == "queued"
    assert first in waiting.progress.message
    gate.touch()
    assert ended(runs, first).state == "succeeded"
    assert ended(runs, second).state == "succeeded"


def test_malformed_and_unknown_ids_are_told_apart(runs: Supervisor) -> None:
    with pytest.raises(InvalidArgument, match="is a dataset id"):
        runs.row("ds_abcdefghijkl")
    with pytest.raises(InvalidArgument, match="is not an id"):
        runs.row("../../etc")
    with pytest.raises(NotFound):
        runs.row("run_abcdefghijkl")


def test_pages_are_newest_first_and_complete(runs: Supervisor) -> None:
    ids = [runs.submit("score", WORKER, {}) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor, total = runs.page(kind=None, state=None, limit=2, cursor=cursor)
        assert total == 5
        seen += [run.run_id for run in page]
        if cursor is None:
            break
    assert seen == ids[::-1]
    with pytest.raises(InvalidArgument, match="cursor"):
        runs.page(kind=None, state=None, limit=2, cursor="'; drop")
    for run_id in ids:
        ended(runs, run_id)
