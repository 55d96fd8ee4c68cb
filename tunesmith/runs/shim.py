"""The process between a server and a worker: tiny, without torch, in a session of its own.

`python -m tunesmith.runs.shim RUN_DIR`. It starts the worker, passes a wish to
stop on to it (TERM, then KILL after a grace), records how it ended, and claims
the next queued run, so that the queue moves with no server open.

With `--adopt` it takes over a worker whose own shim was killed. That worker is
not its child: how it ended is read from what it left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from tunesmith.errors import DiskFull, StoreBusy, UserError
from tunesmith.files import write_atomic
from tunesmith.runs import process
from tunesmith.runs.launcher import ADOPT, launch_queued
from tunesmith.runs.outcome import judge, spawn_failed
from tunesmith.runs.states import FAILED
from tunesmith.runs.store import RunStore, utc_now
from tunesmith.work import RESERVE
from tunesmith.workspace import Workspace

POLL_S = 1.0
STOPPING_POLL_S = 0.1
T = TypeVar("T")
PERSIST_S = 600.0  # how long a full disk or a held database is waited for before the record is left to a reader


class Worker(Protocol):
    """What a shim needs of the process it supervises."""

    @property
    def exit_code(self) -> int | None: ...
    def ended(self, wait_s: float) -> bool: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class OwnWorker:
    """A worker that this shim started."""

    def __init__(self, run_id: str, child: subprocess.Popen[bytes]) -> None:
        self.run_id = run_id
        self.child = child

    @property
    def exit_code(self) -> int | None:
        """Of the worker that has ended; negative for a signal."""
        return self.child.returncode

    def ended(self, wait_s: float) -> bool:
        try:
            self.child.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        self.child.terminate()

    def kill(self) -> None:
        process.kill_group(self.child.pid)
        process.kill_run(self.run_id)  # what has left the group


class AdoptedWorker:
    """A worker that another shim started: known by its pid and start time, or by its environment."""

    exit_code = None  # only a parent is told

    def __init__(self, run_dir: Path, pid: int | None, started: float | None) -> None:
        self.run_dir = run_dir
        self.pid, self.started = pid, started

    def ended(self, wait_s: float) -> bool:
        deadline = time.monotonic() + wait_s
        while self._lives():
            if time.monotonic() >= deadline:
                return False
            time.sleep(STOPPING_POLL_S)
        return True

    def _lives(self) -> bool:
        if process.is_same_process(self.pid, self.started):
            return True
        eldest = min(process.processes_of(self.run_dir.name), key=lambda found: found.pid, default=None)
        if eldest is None:  # whoever holds the lock shows no environment, or has another: it is not ended for that
            return bool(process.is_locked(self.run_dir, process.ALIVE))
        if self.pid not in (None, eldest.pid):
            return False  # it is gone, and only what it started is left
        # Its shim was killed before it could write the pid down, or wrote another start down.
        self.pid, self.started = eldest.pid, process.started_at(eldest.pid)
        return True

    def terminate(self) -> None:
        process.send(self.pid, self.started, signal.SIGTERM)

    def kill(self) -> None:
        process.kill_run(self.run_dir.name)


class Shim:
    """Supervises one worker."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.spec = json.loads((run_dir / "spec.json").read_text(encoding="utf-8"))
        self.workspace = Workspace(Path(self.spec["workspace"]))
        self.store = RunStore(self.workspace.database)
        self.run_id: str = self.spec["run_id"]
        self.terminated = False

    def run(self, *, adopting: bool) -> None:
        signal.signal(signal.SIGTERM, self._on_term)
        me = {"shim_pid": os.getpid(), "shim_started": process.started_at(os.getpid())}
        if adopting:
            _persist(lambda: self.store.record(self.run_id, **me))
            row = self.store.get(self.run_id)
            self._supervise(AdoptedWorker(self.run_dir, row.worker_pid, row.worker_started))
        elif _persist(lambda: self.store.begin(self.run_id, boot_id=process.boot_id(), **me)):
            self._start()
        (self.run_dir / RESERVE).unlink(missing_ok=True)
        _persist(lambda: launch_queued(self.workspace))

    def _start(self) -> None:
        lock = process.inherited_lock(process.ALIVE_VARIABLE)
        environment = {**os.environ, process.RUN_VARIABLE: self.run_id, **self._environment_of_slots()}
        environment.pop(process.SHIM_VARIABLE, None)
        command = [*self.spec["command"], str(self.run_dir)]
        try:
            child = process.spawn(command, self.run_dir / "log.txt", {process.ALIVE_VARIABLE: lock}, environment)
        except OSError as error:
            failure = spawn_failed(error)
            _persist(lambda: self.store.transition(self.run_id, FAILED, error=failure))
            return
        started = process.started_at(child.pid)
        _persist(lambda: self.store.record(self.run_id, worker_pid=child.pid, worker_started=started))
        self._supervise(OwnWorker(self.run_id, child))

    def _environment_of_slots(self) -> dict[str, str]:
        """The variables of the slots this run got; with several, their values joined by commas."""
        joined: dict[str, list[str]] = {}
        for slot in self.store.get(self.run_id).held:
            # An earlier version, whose run may still wait, wrote no environment down.
            for name, value in self.spec.get("environment", {}).get(slot, {}).items():
                joined.setdefault(name, []).append(value)
        return {name: ",".join(values) for name, values in joined.items()}

    def _supervise(self, worker: Worker) -> None:
        """Wait for the worker's end and write down what it was."""
        forced = self._wait(worker)
        # A child of the worker may outlive it and hold memory, a card and the lock.
        worker.kill()
        exit_code = worker.exit_code
        # The room kept for the end of a run on a full disk.
        (self.run_dir / RESERVE).unlink(missing_ok=True)
        ended = {"exit_code": exit_code, "forced": forced, "at": utc_now()}
        try:
            _persist(lambda: write_atomic(self.run_dir / "exit.json", json.dumps(ended)), seconds=5)
        except OSError as error:
            _say(error)  # it only serves a reader, should the store stay out of reach

        columns = {"exit_code": exit_code} | ({"forced": 1} if forced else {})
        _persist(
            lambda: self.store.conclude(
                self.run_id, lambda wished: judge(self.run_dir, exit_code, cancel_requested=wished), **columns
            )
        )

    def _wait(self, worker: Worker) -> bool:
        """Wait for the worker's end; True if it had to be killed."""
        asked_at: float | None = None
        forced = False
        while not worker.ended(POLL_S if asked_at is None else STOPPING_POLL_S):
            if asked_at is None and (self.terminated or self._cancel_requested()):
                asked_at = time.monotonic()
                worker.terminate()
            elif asked_at is not None and not forced and time.monotonic() - asked_at > self.spec["grace_s"]:
                forced = True
                _persist(lambda: self.store.record(self.run_id, forced=1), seconds=1)
                worker.kill()
        return forced

    def _cancel_requested(self) -> bool:
        try:
            return self.store.get(self.run_id).cancel_requested
        except UserError:
            return False  # a store that cannot be read now is no reason to leave the worker alone

    def _on_term(self, _number: int, _frame: object) -> None:
        self.terminated = True


def _persist(write: Callable[[], T], *, seconds: float = PERSIST_S) -> T | None:
    """Write something down, waiting for a full disk or a held database to get better.

    What cannot be written in that time is left to the next reader of the run, who finds its lock free.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return write()
        except (StoreBusy, DiskFull) as error:
            problem: Exception = error
        except UserError as error:
            _say(error)
            return None
        if time.monotonic() > deadline:
            _say(problem)
            return None
        time.sleep(POLL_S)


def _say(problem: Exception) -> None:
    with contextlib.suppress(OSError):  # the log may lie on the disk that is full
        print(problem, file=sys.stderr, flush=True)


if __name__ == "__main__":
    Shim(Path(sys.argv[1])).run(adopting=ADOPT in sys.argv[2:])
