"""Three servers, sixty runs, one slot: with nothing done to them, and with everything."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.runs.judgement import acts, faults
from tests.runs.stress import Evidence, read, stress

ROUND_S = 30.0
LONG_S = 540.0


def check(evidence: Evidence) -> None:
    wrong = faults(evidence)
    assert not wrong, "\n".join([f"seed {evidence.seed}, done to them: {dict(evidence.deeds.actions)}", *wrong])


@pytest.mark.fault("F10")
def test_sixty_runs_of_three_servers_are_sixty_launches_never_two_at_once_in_the_slot(tmp_path: Path) -> None:
    evidence = stress(tmp_path, 0, chaos_s=120, cpu_runs=0, chaos=False)
    check(evidence)
    found = acts(evidence.plan)
    assert len(found) == 60
    assert all(said == ["begin", "end"] for said in found.values())
    assert {row["state"] for row in read(evidence.plan, "SELECT state FROM runs")} == {"succeeded"}


@pytest.mark.fault("F1", "F2", "F3", "F5", "F6", "F8", "F9", "F10", "F12", "F24")
def test_whatever_is_killed_stopped_or_blocked_every_run_ends_as_what_was_done_to_it(tmp_path: Path) -> None:
    check(stress(tmp_path, int(os.environ.get("TUNESMITH_STRESS_SEED", "1")), chaos_s=ROUND_S))


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.fault("F1", "F2", "F3", "F5", "F6", "F8", "F9", "F10", "F12", "F24")
def test_the_same_for_minutes_with_a_database_that_is_held_for_longer_than_anyone_waits(tmp_path: Path) -> None:
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        seed = random.randrange(10**6)
        folder = tmp_path / str(seed)
        folder.mkdir()
        check(stress(folder, seed, chaos_s=min(60.0, until - time.monotonic()), hold_s=13.0))
