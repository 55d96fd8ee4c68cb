"""What a server does with runs: start, look, cancel. The work is in other processes."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tunesmith.errors import Conflict, InvalidArgument
from tunesmith.files import write_atomic
from tunesmith.runs import log, process
from tunesmith.runs.launcher import launch_queued
from tunesmith.runs.outcome import judge, read_json, read_result
from tunesmith.runs.records import Progress, Run, RunError
from tunesmith.runs.states import (
    ACTIVE,
    CANCELLED,
    CANCELLING,
    FAILED,
    LOST,
    QUEUED,
    STARTING,
    STATES,
    SUCCEEDED,
    TERMINAL,
)
from tunesmith.runs.store import RunRow, RunStore
from tunesmith.workspace import Workspace, check_id, new_id

GRACE_S = 120.0
METRIC_POINTS = 50


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
        slot_class: str = "cpu",
        idempotency_key: str | None = None,
        resume_of: str | None = None,
    ) -> str:
        """Queue a run of `command RUN_DIR` and start it if a slot is free. Returns its id."""
        run_id = new_id("run")
        run_dir = self.workspace.runs / run_id
        run_dir.mkdir()
        spec = {
            "run_id": run_id,
            "kind": kind,
            "args": args,
            "command": command,
            "workspace": str(self.workspace.root),
            "roots": [str(root) for root in self.workspace.roots.roots],
            "grace_s": GRACE_S,
        }
        try:
            write_atomic(run_dir / "spec.json", json.dumps(spec, ensure_ascii=False))
            row = self.store.insert(run_id, kind, slot_class, idempotency_key=idempotency_key, resume_of=resume_of)
        except BaseException:
            shutil.rmtree(run_dir, ignore_errors=True)
            raise
        if row.run_id != run_id:
            shutil.rmtree(run_dir, ignore_errors=True)
        self.launch()
        return row.run_id

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
        if row.state in ACTIVE and self._reconcile(row):
            self.launch()
            row = self.store.get(run_id)
        return row

    def reconcile_all(self) -> None:
        """Bring every active run up to date; called when a server starts and before lists."""
        moved = [self._reconcile(row) for row in self.store.active()]
        if any(moved) or self.store.page(kind=None, state=QUEUED, limit=1, before=None)[2]:
            self.launch()

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
        self.store.request_cancel(run_id)
        row = self.store.get(run_id)
        if not process.send(row.shim_pid, row.shim_started, signal.SIGTERM):
            process.send(row.worker_pid, row.worker_started, signal.SIGTERM)
        return self.row(run_id)

    def view(self, run_id: str, *, log_lines: int = 20, metrics: bool = False) -> Run:
        """The run as callers see it."""
        return self._view(self.row(run_id), log_lines, metrics)

    def page(
        self, *, kind: str | None, state: str | None, limit: int, cursor: str | None
    ) -> tuple[list[Run], str | None, int]:
        """Newest first, with an opaque cursor."""
        if state is not None and state not in STATES:
            raise InvalidArgument(f"state: there is no state {state!r}.", next=f"Use one of {', '.join(STATES)}.")
        self.reconcile_all()
        before = None
        if cursor is not None:
            if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
                raise InvalidArgument("cursor is not one that list_runs gave.", next="Leave it out for the first page.")
            before = int(cursor)
        rows, following, total = self.store.page(kind=kind, state=state, limit=limit, before=before)
        return [self._view(row, 0, False) for row in rows], str(following) if following else None, total

    def _reconcile(self, row: RunRow) -> bool:
        """Whether the row was moved because its processes are gone."""
        run_dir = self.workspace.runs / row.run_id
        if row.state == STARTING:
            if row.spawn_deadline is None or time.time() < row.spawn_deadline or process.is_locked(run_dir):
                return False
            error = {"code": "spawn_failed", "message": "Its process never started.", "next": "Start it again."}
            return self.store.transition(row.run_id, FAILED, error=error)
        locked = process.is_locked(run_dir)
        if locked is None:  # no flock here: believe the processes that were written down
            locked = process.is_same_process(row.shim_pid, row.shim_started) or process.is_same_process(
                row.worker_pid, row.worker_started
            )
        if locked:
            return False
        ended = read_json(run_dir / "exit.json") or {}
        code = ended.get("exit_code")
        state, error = judge(run_dir, code if isinstance(code, int) else None, cancel_requested=row.cancel_requested)
        return self.store.transition(row.run_id, state, error=error)

    def _view(self, row: RunRow, log_lines: int, with_metrics: bool) -> Run:
        run_dir = self.workspace.runs / row.run_id
        lines, left_out = log.tail(run_dir / "log.txt", log_lines) if log_lines else ([], 0)
        result = (read_result(run_dir) or {}).get("result") if row.state == SUCCEEDED else None
        uri = f"runs://{row.run_id}"
        resources = [uri, f"{uri}/log"]
        if row.kind == "train":
            resources += [f"{uri}/metrics", f"{uri}/loss.svg"]
        points = log.thin(log.records(run_dir / "metrics.jsonl"), METRIC_POINTS) if with_metrics else None
        return Run.model_validate(
            {
                "run_id": row.run_id,
                "kind": row.kind,
                "state": row.state,
                "created_at": row.created_at,
                "started_at": row.started_at,
                "finished_at": row.finished_at,
                "progress": self._progress(row, run_dir),
                "result": result,
                "error": RunError(**row.error) if row.error else None,
                "log_tail": lines,
                "log_lines_left_out": left_out or None,
                "metrics": points,
                "resume_of": row.resume_of,
                "forced": row.forced,
                "resources": resources,
                "next": self._next(row, result),
            }
        )

    def _progress(self, row: RunRow, run_dir: Path) -> Progress:
        if row.state == QUEUED:
            ahead = self.store.queue_ahead(row)
            return Progress(message=f"Waiting for {', '.join(ahead[:5]) or 'a free slot'}.")
        last = log.last_record(run_dir / "events.jsonl") or {}
        known = {name: last.get(name) for name in ("fraction", "step", "total_steps", "eta_s")}
        if row.state == SUCCEEDED:
            known |= {"fraction": 1.0, "eta_s": None}
        elif row.state in TERMINAL:
            known["eta_s"] = None
        return Progress(**known, message=log.clean(str(last.get("message") or ""))[:300])

    @staticmethod
    def _next(row: RunRow, result: dict[str, Any] | None) -> str:
        if row.state in (FAILED, LOST):
            return row.error["next"] if row.error else "Read the log."
        if row.state in (CANCELLED,):
            return "Nothing: it was cancelled. Start it again when you like."
        if row.state != SUCCEEDED:
            waiting = "It is ending. " if row.state == CANCELLING else ""
            return f'{waiting}Call get_run(run_id="{row.run_id}", wait_s=30).'
        found = result or {}
        return {
            "extract": f'score_dataset(dataset_id="{found.get("dataset", {}).get("dataset_id")}")',
            "score": "Read the findings; then clean_dataset with the same dataset_id, or split_dataset if it is clean.",
            "clean": f'split_dataset(dataset_id="{found.get("dataset_id")}")',
            "train": f'diagnose_run(run_id="{row.run_id}"), then export_gguf(model="{found.get("model_id")}")',
            "export": f'register_ollama(model="{found.get("model_id")}", name="my-notes"), or compare_models.',
            "register": f"Chat with it: {found.get('command')}",
            "compare": f"Read the report: {found.get('report')}",
        }[row.kind]
