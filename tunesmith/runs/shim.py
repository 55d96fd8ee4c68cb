"""The process between a server and a worker: tiny, without torch, in a session of its own.

`python -m tunesmith.runs.shim RUN_DIR`. It starts the worker, passes a wish to
stop on to it (TERM, then KILL after a grace), records how it ended, and claims
the next queued run, so that the queue moves with no server open.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tunesmith.files import write_atomic
from tunesmith.runs import process
from tunesmith.runs.launcher import launch_queued
from tunesmith.runs.outcome import judge
from tunesmith.runs.states import CANCELLED, FAILED, RUNNING
from tunesmith.runs.store import RunStore, utc_now
from tunesmith.workspace import Workspace

POLL_S = 1.0


class Shim:
    """Supervises one worker."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.spec = json.loads((run_dir / "spec.json").read_text(encoding="utf-8"))
        self.workspace = Workspace(Path(self.spec["workspace"]))
        self.store = RunStore(self.workspace.database)
        self.run_id: str = self.spec["run_id"]
        self.terminated = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._on_term)
        lock = os.environ.get(process.LOCK_VARIABLE) or None
        me = os.getpid()
        if self.store.get(self.run_id).cancel_requested:
            self.store.transition(self.run_id, CANCELLED)
        elif self.store.transition(
            self.run_id, RUNNING, shim_pid=me, shim_started=process.started_at(me), boot_id=process.boot_id()
        ):
            self._supervise(int(lock) if lock else None)
        launch_queued(self.workspace)

    def _supervise(self, lock: int | None) -> None:
        try:
            worker = process.spawn(
                [*self.spec["command"], str(self.run_dir)], self.run_dir / "log.txt", lock, dict(os.environ)
            )
        except OSError as error:
            self.store.transition(
                self.run_id,
                FAILED,
                error={
                    "code": "spawn_failed",
                    "message": f"The worker could not be started: {error}.",
                    "next": "Start it again.",
                },
            )
            return
        self.store.record(self.run_id, worker_pid=worker.pid, worker_started=process.started_at(worker.pid))
        forced = self._wait(worker)
        # A child of the worker may outlive it and hold memory, a card and the lock.
        process.kill_group(worker.pid)
        exit_code = worker.returncode
        write_atomic(
            self.run_dir / "exit.json", json.dumps({"exit_code": exit_code, "forced": forced, "at": utc_now()})
        )
        row = self.store.get(self.run_id)
        state, error = judge(self.run_dir, exit_code, cancel_requested=row.cancel_requested)
        self.store.transition(self.run_id, state, error=error, exit_code=exit_code, forced=int(forced))

    def _wait(self, worker: subprocess.Popen[bytes]) -> bool:
        """Wait for the worker's end; True if it had to be killed."""
        asked_at: float | None = None
        forced = False
        while True:
            try:
                worker.wait(timeout=POLL_S if asked_at is None else 0.1)
                return forced
            except subprocess.TimeoutExpired:
                pass
            if asked_at is None and (self.terminated or self.store.get(self.run_id).cancel_requested):
                asked_at = time.monotonic()
                worker.terminate()
            elif asked_at is not None and not forced and time.monotonic() - asked_at > self.spec["grace_s"]:
                forced = True
                process.kill_group(worker.pid)

    def _on_term(self, _number: int, _frame: object) -> None:
        self.terminated = True


if __name__ == "__main__":
    Shim(Path(sys.argv[1])).run()
