"""What docs/reliability.md promises is tested, and what is tested is on the page."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import reliability
from tests.faults import FAULTS


@pytest.fixture(scope="module")
def check() -> list[str]:
    """What `python -m tests.reliability --check` finds wrong. Another process: pytest does not nest."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability", "--check"],
        cwd=reliability.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line]
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert bool(lines) == bool(done.returncode), done.stdout + done.stderr
    return lines


def test_every_fault_has_a_test(check: list[str]) -> None:
    assert [line for line in check if line.endswith("has no test")] == []


def test_no_test_names_a_fault_that_is_unknown(check: list[str]) -> None:
    assert [line for line in check if line.endswith("is unknown")] == []


def test_the_page_is_what_the_faults_and_their_tests_make(check: list[str]) -> None:
    assert [line for line in check if "is stale" in line] == []


def test_a_fault_without_a_test_an_unknown_id_and_a_stale_page_are_seen() -> None:
    shown = reliability.Shown("tests/runs/test_runs.py", "test_a_thing", "make test-faults")
    everything = {fault: {shown} for fault in FAULTS}
    assert reliability.problems(everything) == []
    assert reliability.problems({**everything, "F99": {shown}}) == [
        "tests/runs/test_runs.py: test_a_thing names F99, which is unknown"
    ]
    assert "F3 has no test" in reliability.problems({**everything, "F3": set()})
    page = f"before\n{reliability.BEGIN}\nan earlier table\n{reliability.END}\nafter\n"
    fresh = reliability.with_table(page, everything)
    assert fresh.startswith("before\n")
    assert fresh.endswith("after\n")
    assert "| F1 |" in fresh
    assert "an earlier table" not in fresh
    assert "[a thing](../tests/runs/test_runs.py) (make test-faults)" in fresh
    assert reliability.with_table(fresh, everything) == fresh
