"""From a queued run to its shim. Called by servers and by shims alike."""

from __future__ import annotations

import os
import subprocess
import sys

from tunesmith.runs import process
from tunesmith.runs.states import FAILED
from tunesmith.runs.store import RunRow, RunStore
from tunesmith.workspace import Workspace


def launch_queued(workspace: Workspace) -> list[subprocess.Popen[bytes]]:
    """Start every queued run that has a free slot. Returns the shims, for the caller to reap."""
    store = RunStore(workspace.database)
    shims = []
    while (row := store.claim_next()) is not None:
        shim = _launch(workspace, store, row)
        if shim is not None:
            shims.append(shim)
    return shims


def _launch(workspace: Workspace, store: RunStore, row: RunRow) -> subprocess.Popen[bytes] | None:
    run_dir = workspace.runs / row.run_id
    lock: int | None = None
    try:
        lock = process.take_lock(run_dir)
        return process.spawn(
            [sys.executable, "-m", "tunesmith.runs.shim", str(run_dir)], run_dir / "log.txt", lock, dict(os.environ)
        )
    except OSError as error:
        store.transition(
            row.run_id,
            FAILED,
            error={
                "code": "spawn_failed",
                "message": f"The run could not be started: {error}.",
                "next": "Check free memory and disk, then start it again.",
            },
        )
        return None
    finally:
        # The shim has its own copy; ours would keep the run "alive" as long as this process lives.
        if lock is not None:
            os.close(lock)
