"""The database under an open connection: migrated by another version, or another file in its place."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.runs.conftest import WORKER, ended, until
from tunesmith import database
from tunesmith.errors import StoreTooNew
from tunesmith.runs import process
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace

LONG_AGO = 1_750_000_000.0  # seconds since 1970, as the first schema kept all times
FIRST, SECOND = "run_" + "a" * 12, "run_" + "b" * 12


@contextmanager
def opened(workspace: Workspace) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(workspace.root / "tunesmith.db", isolation_level=None)) as connection:
        yield connection


def run_of_the_first_schema(workspace: Workspace, state: str) -> Path:
    """A run as the first version left it, in a database of its own; its folder is returned."""
    folder = workspace.runs / FIRST
    folder.mkdir()
    spec = {"run_id": FIRST, "kind": "score", "workspace": str(workspace.root), "command": WORKER, "grace_s": 1}
    (folder / "spec.json").write_text(json.dumps(spec))
    with opened(workspace) as connection:
        connection.executescript(database.MIGRATIONS[0][1])
        connection.execute("PRAGMA user_version=1")
        connection.execute(
            "INSERT INTO runs(run_id, kind, state, slot_class, slot, created_at, spawn_deadline, boot_id, shim_pid,"
            " shim_started, worker_pid, worker_started) VALUES (?, 'score', ?, 'cpu', 'cpu0', ?, ?, ?, ?, ?, ?, ?)",
            (FIRST, state, "2025-06-15T15:06:40.000Z", LONG_AGO + 60, process.boot_id(), *[os.getpid(), LONG_AGO] * 2),
        )
    return folder


def test_a_run_that_the_first_version_started_runs_on_until_its_processes_are_gone(runs: Supervisor) -> None:
    folder = run_of_the_first_schema(runs.workspace, "running")
    lock = process.take_lock(folder, process.ALIVE)
    assert lock is not None
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    os.close(lock)
    assert runs.row(FIRST).state == "running"
    assert runs.row(FIRST).held == ("cpu0",)
    until(lambda: runs.store.get(FIRST).shim_pid not in (None, os.getpid()))
    stays_until = time.monotonic() + 1.5  # the shim that took it over looks at it ten times
    while time.monotonic() < stays_until:
        assert runs.store.get(FIRST).state == "running"
    assert holder.poll() is None
    (folder / "result.json").write_text('{"result": {}}')
    holder.communicate(b"\n", timeout=10)
    assert ended(runs, FIRST).state == "succeeded"


def test_a_run_that_the_first_version_never_started_fails(runs: Supervisor) -> None:
    run_of_the_first_schema(runs.workspace, "starting")
    run = runs.view(FIRST)
    assert run.error is not None
    assert run.error.code == "spawn_failed"


@pytest.mark.fault("F22")
@pytest.mark.parametrize(
    "migration", ["", "ALTER TABLE runs RENAME TO jobs", "ALTER TABLE runs RENAME COLUMN run_id TO id"]
)
def test_a_workspace_that_a_newer_version_takes_over_is_written_and_read_no_more(
    runs: Supervisor, migration: str
) -> None:
    runs.store.insert(FIRST, "score", ("cpu0",))
    with opened(runs.workspace) as connection:
        connection.execute(migration)
        connection.execute(f"PRAGMA user_version={len(database.MIGRATIONS) + 1}")
        before = list(connection.iterdump())
        with pytest.raises(StoreTooNew, match="newer"):
            runs.store.insert(SECOND, "score", ("cpu0",))
        with pytest.raises(StoreTooNew, match="newer"):
            runs.view(FIRST)
        with pytest.raises(StoreTooNew, match="newer"):
            runs.submit("score", WORKER, {})
        assert list(connection.iterdump()) == before
    assert list(runs.workspace.runs.iterdir()) == []


@pytest.mark.fault("F22")
def test_a_column_that_a_newer_version_dropped_is_not_looked_for(runs: Supervisor) -> None:
    runs.store.insert(FIRST, "score", ("cpu0",))
    with opened(runs.workspace) as connection:
        connection.execute("ALTER TABLE runs DROP COLUMN forced")
        connection.execute(f"PRAGMA user_version={len(database.MIGRATIONS) + 1}")
    with pytest.raises(StoreTooNew, match="newer"):
        runs.store.get(FIRST)


def test_a_copy_put_in_the_databases_place_is_what_is_read_and_written_from_then_on(
    runs: Supervisor, tmp_path: Path
) -> None:
    path, old, copy = runs.workspace.root / "tunesmith.db", tmp_path / "old.db", tmp_path / "copy.db"
    runs.store.insert(FIRST, "score", ("cpu0",))
    with opened(runs.workspace) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
        for number in range(200):  # enough for the log to hold pages that the copy lacks
            runs.store.insert(f"later{number}", "score", ("cpu0",), idempotency_key="x" * 500 + str(number))
        path.rename(old)
        copy.rename(path)
        assert runs.store.ids() == {FIRST}
        runs.store.insert(SECOND, "score", ("cpu0",))
    with opened(runs.workspace) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT run_id FROM runs ORDER BY seq").fetchall() == [(FIRST,), (SECOND,)]
    with closing(sqlite3.connect(old)) as connection:  # with all that was written to it
        assert connection.execute("SELECT COUNT(*) FROM runs").fetchone() == (201,)


def test_a_database_that_was_taken_away_is_made_anew_as_at_the_start(runs: Supervisor, tmp_path: Path) -> None:
    path = runs.workspace.root / "tunesmith.db"
    runs.store.insert(FIRST, "score", ("cpu0",))
    path.rename(tmp_path / "away.db")
    assert runs.store.ids() == set()
    runs.store.insert(SECOND, "score", ("cpu0",))
    with opened(runs.workspace) as connection:
        assert connection.execute("SELECT run_id FROM runs").fetchall() == [(SECOND,)]
