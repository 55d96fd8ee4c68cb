"""From a queued run to its shim, and another shim for a run that lost its own. Called by servers and shims alike."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from tunesmith.runs import process
from tunesmith.runs.outcome import spawn_failed
from tunesmith.runs.states import CANCELLING, FAILED, RUNNING
from tunesmith.runs.store import RunRow, RunStore
from tunesmith.work import RESERVE
from tunesmith.workspace import Workspace

ADOPT = "--adopt"


def launch_queued(workspace: Workspace) -> None:
    """Start every queued run that has a free slot."""
    store = RunStore(workspace.database)
    while (row := store.claim_next()) is not None:
        _launch(workspace, store, row)


def adopt(workspace: Workspace, row: RunRow) -> None:
    """Give a run whose shim is gone another one. Nothing happens if somebody else is doing so."""
    run_dir = workspace.runs / row.run_id
    try:
        lock = process.take_lock(run_dir, process.SHIM)
    except BlockingIOError:
        return
    store = RunStore(workspace.database)
    try:
        if store.get(row.run_id).state not in (RUNNING, CANCELLING):
            return  # it ended between the look at its row and the look at its locks
        store.record(row.run_id, orphaned=1)
        _start_shim(run_dir, {process.SHIM_VARIABLE: lock}, ADOPT)
    except OSError:
        return  # no memory or no process to be had now: the next look at the run tries again
    finally:
        _close(lock)


def _launch(workspace: Workspace, store: RunStore, row: RunRow) -> None:
    run_dir = workspace.runs / row.run_id
    locks: dict[str, int | None] = {}
    try:
        locks[process.SHIM_VARIABLE] = process.take_lock(run_dir, process.SHIM)
        locks[process.ALIVE_VARIABLE] = process.take_lock(run_dir, process.ALIVE)
        _start_shim(run_dir, locks)
    except OSError as error:
        (run_dir / RESERVE).unlink(missing_ok=True)
        store.transition(row.run_id, FAILED, error=spawn_failed(error))
    finally:
        # The shim has its own copies; ours would keep the run "alive" as long as this process lives.
        for lock in locks.values():
            _close(lock)


def _start_shim(run_dir: Path, locks: dict[str, int | None], *options: str) -> None:
    # -P: a folder with a `json.py` in it, where a server may well be started, must not stand before the library.
    command = [sys.executable, "-P", "-m", "tunesmith.runs.shim", str(run_dir), *options]
    shim = process.spawn(command, run_dir / "log.txt", locks, os.environ)
    # Somebody must collect the shim's exit, or it stays a zombie as long as this process lives.
    with contextlib.suppress(RuntimeError):  # no thread to be had: a zombie is the smaller evil
        threading.Thread(target=_collect, args=(shim,), daemon=True).start()


def _collect(shim: subprocess.Popen[bytes]) -> None:
    shim.wait()


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
