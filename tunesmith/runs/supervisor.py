"""What a server does with runs: start, look, cancel. The work is in other processes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import Conflict, InvalidArgument, StoreBusy
from tunesmith.files import TEMPORARY_PREFIX, write_atomic
from tunesmith.runs import process
from tunesmith.runs.describing import describe
from tunesmith.runs.launcher import adopt, launch_queued
from tunesmith.runs.outcome import judge, read_json
from tunesmith.runs.records import Run
from tunesmith.runs.states import ACTIVE, CANCELLED, FAILED, QUEUED, STARTING, STATES, TERMINAL
from tunesmith.runs.store import CPU_SLOTS, RunRow, RunStore
from tunesmith.work import RESERVE, RESERVE_BYTES, spec_of
from tunesmith.workspace import Workspace, check_id, new_id

logger = logging.getLogger(__name__)

GRACE_S = 120.0
ABANDONED_S = 3600.0


class Supervisor:
    """Runs of one workspace, seen from a server. Any number of servers may have one each."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.store = RunStore(workspace.database)

    def submit(
        self,
        kind: str,
        command: list[str],
        args: dict[str, Any],
        *,
        slots: Sequence[str] = CPU_SLOTS,
        slots_needed: int = 1,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        idempotency_key: str | None = None,
        request: Mapping[str, Any] | None = None,
        resume_of: str | None = None,
    ) -> str:
        """Queue a run of `command RUN_DIR` and start it if a slot is free. Returns its id.

        Args:
            slots: it waits for `slots_needed` of these at once; a slot holds one run at a time.
            environment: variables for the worker, by slot; those of several slots are joined by commas.
            idempotency_key: a second call with the same key returns the run of the first.
            request: what the caller asked for, in his words; a key that comes with another request is refused.

        Raises:
            Conflict: the key was used for another request.
        """
        digest = None
        if request is not None:
            digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        taken = self.store.with_key(idempotency_key) if idempotency_key is not None else None
        row = taken or self._queue(
            kind,
            slots,
            {"command": command, "args": args, "environment": environment or {}},
            slots_needed=slots_needed,
            idempotency_key=idempotency_key,
            request_sha256=digest,
            resume_of=resume_of,
        )
        # None: an earlier version started it and did not write down what was asked for.
        if row.request_sha256 not in (None, digest):
            raise Conflict(
                f"idempotency_key {idempotency_key!r} belongs to {row.run_id}, which was asked for something else.",
                next="Use another key, or leave it out.",
            )
        try:
            self.launch()
        except StoreBusy as error:
            # It is in the queue: an error here would make the caller start it twice.
            logger.warning("%s is queued and not started yet: %s", row.run_id, error)
        return row.run_id

    def _queue(
        self, kind: str, slots: Sequence[str], job: dict[str, Any], *, slots_needed: int, **columns: str | None
    ) -> RunRow:
        """The new run, or the one that took the same key a moment earlier."""
        run_id = new_id("run")
        run_dir = self.workspace.runs / run_id
        spec = spec_of(self.workspace, run_id, kind, **job, grace_s=GRACE_S)
        kept = False
        try:
            write_atomic(run_dir / "spec.json", json.dumps(spec, ensure_ascii=False))
            write_atomic(run_dir / RESERVE, os.urandom(RESERVE_BYTES))
            row = self.store.insert(run_id, kind, slots, slots_needed=slots_needed, **columns)
            kept = row.run_id == run_id
        finally:
            if not kept:
                shutil.rmtree(run_dir, ignore_errors=True)
        return row

    def launch(self) -> None:
        """Start what is queued and has a slot."""
        launch_queued(self.workspace)

    def spec(self, run_id: str) -> dict[str, Any]:
        """What the run was asked to do."""
        return read_json(self.folder(run_id) / "spec.json") or {}

    def folder(self, run_id: str) -> Path:
        return self.workspace.runs / check_id("run", run_id)

    def row(self, run_id: str) -> RunRow:
        """The run's row, brought up to date with what its processes show.

        Raises:
            InvalidArgument, NotFound: a malformed or an unknown id.
        """
        row = self.store.get(check_id("run", run_id))
        if row.state in TERMINAL:
            return row
        if row.state in ACTIVE:
            self._reconcile(row)
        # Whoever should start what waits, this run or the one behind it, may be gone.
        self.launch()
        return self.store.get(run_id)

    def reconcile_all(self) -> None:
        """Bring every active run up to date and start what can start; called when a server starts and before lists."""
        for row in self.store.active():
            self._reconcile(row)
        self.launch()

    def discard_unqueued(self) -> None:
        """Remove what a server left that was killed after it made a run's folder and before it queued the run."""
        # Only folders of runs: a file manager leaves files of its own (`.DS_Store`), a person whatever he likes.
        folders = {folder.name: folder for folder in self.workspace.runs.glob("run_*") if folder.is_dir()}
        for name in folders.keys() - self.store.ids():
            try:
                kept = {path.name for path in folders[name].iterdir() if not path.name.startswith(TEMPORARY_PREFIX)}
                age = time.time() - folders[name].stat().st_mtime
            except (FileNotFoundError, PermissionError):
                continue  # another server removed it a moment ago, or it is another user's
            # A folder in which something ran is kept whatever the database says: it may be an older copy of itself.
            if kept <= {"spec.json", RESERVE} and age > ABANDONED_S:
                shutil.rmtree(folders[name], ignore_errors=True)

    def cancel(self, run_id: str) -> RunRow:
        """Ask a run to end. A training run saves a checkpoint first.

        Raises:
            Conflict: it has already ended.
        """
        row = self.row(run_id)
        if row.state in TERMINAL:
            raise Conflict(
                f"Run {run_id} has already ended: {row.state}.", next=f'Call get_run(run_id="{run_id}") to read it.'
            )
        if self.store.request_cancel(run_id) == CANCELLED:  # it never began
            (self.folder(run_id) / RESERVE).unlink(missing_ok=True)
        row = self.store.get(run_id)
        # The shim looks at the store every second; the signal only makes it quicker.
        if row.boot_id == process.boot_id():
            process.send(row.shim_pid, row.shim_started, signal.SIGTERM)
        return self.row(run_id)

    def view(self, run_id: str, *, log_lines: int = 20, metrics: bool = False) -> Run:
        """The run as callers see it."""
        row = self.row(run_id)
        queue = self.store.queue() if row.state == QUEUED else []
        return describe(row, self.folder(run_id), queue, log_lines=log_lines, metrics=metrics)

    def page(
        self, *, kind: str | None, state: str | None, limit: int, cursor: str | None
    ) -> tuple[list[Run], str | None, int]:
        """Newest first, without logs and results, with an opaque cursor."""
        if state is not None and state not in STATES:
            raise InvalidArgument(f"state: there is no state {state!r}.", next=f"Use one of {', '.join(STATES)}.")
        self.reconcile_all()
        before = None
        if cursor is not None:
            if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
                raise InvalidArgument("cursor is not one that list_runs gave.", next="Leave it out for the first page.")
            before = int(cursor)
        rows, following, total = self.store.page(kind=kind, state=state, limit=limit, before=before)
        queue = self.store.queue() if any(row.state == QUEUED for row in rows) else []
        page = [describe(row, self.workspace.runs / row.run_id, queue, brief=True) for row in rows]
        return page, str(following) if following else None, total

    def _reconcile(self, row: RunRow) -> bool:
        """Whether the row was moved because its processes are gone."""
        run_dir = self.workspace.runs / row.run_id
        here = row.boot_id == process.boot_id()
        if row.state == STARTING:
            # The deadline first: a look at the lock could get in the way of the launcher who is about to take it.
            if here and row.spawn_deadline is not None and process.uptime_s() < row.spawn_deadline:
                return False
            if process.is_locked(run_dir, process.ALIVE):
                return False
            (run_dir / RESERVE).unlink(missing_ok=True)
            error = {"code": "spawn_failed", "message": "Its process never started.", "next": "Start it again."}
            return self.store.transition(row.run_id, FAILED, error=error)
        alive = process.is_locked(run_dir, process.ALIVE)
        if alive is None:  # the lock cannot be looked at: believe the processes that were written down
            alive = here and any(
                process.is_same_process(pid, started)
                for pid, started in ((row.shim_pid, row.shim_started), (row.worker_pid, row.worker_started))
            )
        elif alive and not process.is_locked(run_dir, process.SHIM):
            adopt(self.workspace, row)
        if alive:
            return False
        (run_dir / RESERVE).unlink(missing_ok=True)
        ended = read_json(run_dir / "exit.json") or {}
        code = ended.get("exit_code")
        exit_code = code if isinstance(code, int) else None
        return self.store.conclude(row.run_id, lambda wished: judge(run_dir, exit_code, cancel_requested=wished))
