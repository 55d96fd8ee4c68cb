"""From a queued run to its shim. Called by servers and by shims alike."""

from __future__ import annotations

import os
import sys
import threading

from tunesmith.runs import process
from tunesmith.runs.states import FAILED
from tunesmith.runs.store import RunRow, RunStore
from tunesmith.workspace import Workspace


def launch_queued(workspace: Workspace) -> None:
    """Start every queued run that has a free slot."""
    store = RunStore(workspace.database)
    while (row := store.claim_next()) is not None:
        _launch(workspace, store, row)


def _launch(workspace: Workspace, store: RunStore, row: RunRow) -> None:
    run_dir = workspace.runs / row.run_id
    lock: int | None = None
    try:
        lock = process.take_lock(run_dir)
        shim = process.spawn(
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
    else:
        # Somebody must collect the shim's exit, or it stays a zombie as long as this process lives.
        threading.Thread(target=shim.wait, daemon=True).start()
    finally:
        # The shim has its own copy; ours would keep the run "alive" as long as this process lives.
        if lock is not None:
            os.close(lock)
