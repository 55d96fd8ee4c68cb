"""Runs in the database: one row a run, one event a transition, both in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tunesmith.database import Database
from tunesmith.errors import InvalidArgument, NotFound
from tunesmith.runs import process
from tunesmith.runs.states import ACTIVE, CANCELLED, CANCELLING, QUEUED, RUNNING, STARTING, TERMINAL, may_become

SPAWN_DEADLINE_S = 60.0
CPU_SLOTS = ("cpu0", "cpu1")
COLUMNS = frozenset(
    {
        "slot",
        "spawn_deadline",
        "boot_id",
        "shim_pid",
        "shim_started",
        "worker_pid",
        "worker_started",
        "orphaned",
        "forced",
        "exit_code",
    }
)


@dataclass(frozen=True)
class RunRow:
    """A run as the database has it.

    Times are ISO 8601 UTC; `seq` is the order of creation; `slots` are those it may run in, of which it takes
    `slots_needed` at once; `held` are those it has now, `slot` is the first one it got.
    `spawn_deadline` is on the clock of `process.uptime_s` in the boot of `boot_id`.
    """

    seq: int
    run_id: str
    kind: str
    state: str
    slots: tuple[str, ...]
    slots_needed: int
    slot: str | None
    held: tuple[str, ...]
    resume_of: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    spawn_deadline: float | None
    boot_id: str | None
    shim_pid: int | None
    shim_started: float | None
    worker_pid: int | None
    worker_started: float | None
    cancel_requested: bool
    orphaned: bool
    forced: bool
    exit_code: int | None
    request_sha256: str | None
    error: dict[str, Any] | None


# Whole rows. The names of slots hold no line ends.
_RUNS = (
    "SELECT *, (SELECT group_concat(slot, char(10)) FROM held_slots WHERE held_slots.run_id = runs.run_id) AS held"
    " FROM runs"
)


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _row(row: sqlite3.Row) -> RunRow:
    values = {name: row[name] for name in RunRow.__dataclass_fields__}
    for name in ("cancel_requested", "orphaned", "forced"):
        values[name] = bool(values[name])
    values["slots"] = tuple(json.loads(values["slots"]))
    held = set((values["held"] or "").split("\n"))
    values["held"] = tuple(slot for slot in values["slots"] if slot in held)
    values["error"] = json.loads(values["error"]) if values["error"] else None
    return RunRow(**values)


class RunStore:
    """Every change of a run goes through here."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def insert(
        self,
        run_id: str,
        kind: str,
        slots: Sequence[str],
        *,
        slots_needed: int = 1,
        idempotency_key: str | None = None,
        request_sha256: str | None = None,
        resume_of: str | None = None,
    ) -> RunRow:
        """Queue a run. With an idempotency key that is already taken, the run that has it is returned.

        Raises:
            InvalidArgument: it needs more slots than those it may have; it would wait for ever.
        """
        if not 1 <= slots_needed <= len(set(slots)):
            raise InvalidArgument(
                f"A run that needs {slots_needed} of {len(set(slots))} slots can never start.",
                next="Ask for fewer at once.",
            )
        with self.database.transaction() as connection:
            if idempotency_key is not None:
                taken = connection.execute(f"{_RUNS} WHERE idempotency_key=?", (idempotency_key,)).fetchone()
                if taken:
                    return _row(taken)
            connection.execute(
                "INSERT INTO runs(run_id, kind, state, slots, slots_needed, idempotency_key, request_sha256, resume_of,"
                " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run_id,
                    kind,
                    QUEUED,
                    json.dumps(slots),
                    slots_needed,
                    idempotency_key,
                    request_sha256,
                    resume_of,
                    utc_now(),
                ),
            )
            _event(connection, run_id, None, QUEUED, None)
            return _row(connection.execute(f"{_RUNS} WHERE run_id=?", (run_id,)).fetchone())

    def get(self, run_id: str) -> RunRow:
        """Raises `NotFound` for an unknown id."""
        rows = self.database.read(f"{_RUNS} WHERE run_id=?", (run_id,))
        if not rows:
            raise NotFound(f"There is no run {run_id}.", next="Call list_runs to see the runs there are.")
        return _row(rows[0])

    def with_key(self, idempotency_key: str) -> RunRow | None:
        """The run that was started with this key."""
        rows = self.database.read(f"{_RUNS} WHERE idempotency_key=?", (idempotency_key,))
        return _row(rows[0]) if rows else None

    def ids(self) -> set[str]:
        """Every run there is."""
        return {row[0] for row in self.database.read("SELECT run_id FROM runs")}

    def page(
        self, *, kind: str | None, state: str | None, limit: int, before: int | None
    ) -> tuple[list[RunRow], int | None, int]:
        """Newest first: rows, the `seq` to continue before (or None), and the total."""
        conditions, parameters = ["1=1"], []
        for column, value in (("kind", kind), ("state", state)):
            if value is not None:
                conditions.append(f"{column}=?")
                parameters.append(value)
        where = " AND ".join(conditions)
        total = self.database.read(f"SELECT COUNT(*) FROM runs WHERE {where}", tuple(parameters))[0][0]
        if before is not None:
            where += " AND seq < ?"
            parameters.append(before)
        rows = self.database.read(f"{_RUNS} WHERE {where} ORDER BY seq DESC LIMIT ?", (*parameters, limit + 1))
        page = [_row(row) for row in rows[:limit]]
        return page, page[-1].seq if len(rows) > limit else None, total

    def active(self) -> list[RunRow]:
        marks = ",".join("?" * len(ACTIVE))
        return [_row(row) for row in self.database.read(f"{_RUNS} WHERE state IN ({marks})", ACTIVE)]

    def newest_change(self) -> int:
        """The number of the newest event: changes whenever any run changes state."""
        return self.database.read("SELECT COALESCE(MAX(seq), 0) FROM events")[0][0]

    def events(self, run_id: str) -> list[tuple[str | None, str]]:
        """State before and after, oldest first."""
        rows = self.database.read("SELECT state_before, state_after FROM events WHERE run_id=? ORDER BY seq", (run_id,))
        return [(row[0], row[1]) for row in rows]

    def queued(self) -> list[RunRow]:
        """Runs that wait, oldest first."""
        return [_row(row) for row in self.database.read(f"{_RUNS} WHERE state=? ORDER BY seq", (QUEUED,))]

    def queue(self) -> list[RunRow]:
        """What runs, then what waits, oldest first: what a queued run may be waiting for."""
        return [*self.active(), *self.queued()]

    def claim_next(self) -> RunRow | None:
        """Take the oldest queued run that has its slots free; it becomes `starting`. None if there is none.

        All of its slots at once or none, so that no two runs wait for each other. Two claimers never get the same
        run or slot: one write transaction, and slots are unique in their table.
        """
        # Looked at first without the write lock: readers ask this all the time, and mostly there is nothing to take.
        if self._first_with_slots() is None:
            return None
        with self.database.transaction() as connection:
            found = self._first_with_slots()
            if found is None:
                return None
            run_id, slots = found
            deadline = process.uptime_s() + SPAWN_DEADLINE_S
            columns = {"slot": slots[0], "spawn_deadline": deadline, "boot_id": process.boot_id()}
            connection.executemany(
                "INSERT INTO held_slots(slot, run_id) VALUES (?, ?)", [(slot, run_id) for slot in slots]
            )
            _apply(connection, run_id, STARTING, columns, None)
            return self.get(run_id)

    def _first_with_slots(self) -> tuple[str, list[str]] | None:
        taken = {row["slot"] for row in self.database.read("SELECT slot FROM held_slots")}
        # One look for each kind of wish: a long queue for a card that is busy is not gone through row by row.
        waiting = self.database.read(
            "SELECT slots, slots_needed, MIN(seq) AS first, run_id FROM runs WHERE state=?"
            " GROUP BY slots, slots_needed ORDER BY first",
            (QUEUED,),
        )
        for row in waiting:
            free = [slot for slot in json.loads(row["slots"]) if slot not in taken]
            if len(free) >= row["slots_needed"]:
                return row["run_id"], free[: row["slots_needed"]]
            # Kept free for it: else runs that need fewer, and came later, would overtake it for ever.
            taken.update(free)
        return None

    def begin(self, run_id: str, **columns: Any) -> bool:
        """Let a starting run run, or end it if it was cancelled meanwhile. Returns whether it may run."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT cancel_requested FROM runs WHERE run_id=?", (run_id,)).fetchone()
            if row is not None and row["cancel_requested"]:
                _apply(connection, run_id, CANCELLED, {}, None)
                return False
            return _apply(connection, run_id, RUNNING, columns, None)

    def conclude(self, run_id: str, judge: Callable[[bool], tuple[str, dict[str, Any] | None]], **columns: Any) -> bool:
        """End an active run. Returns whether it moved.

        Args:
            judge: whether the run was asked to end → its final state and error. Asked within the transaction: a wish
                that came a moment earlier is heard, and one that comes later finds a run that has ended.
        """
        with self.database.transaction() as connection:
            row = connection.execute("SELECT cancel_requested FROM runs WHERE run_id=?", (run_id,)).fetchone()
            state, error = judge(bool(row["cancel_requested"]))
            return _apply(connection, run_id, state, columns, error)

    def transition(self, run_id: str, state: str, *, error: dict[str, Any] | None = None, **columns: Any) -> bool:
        """Move a run to `state` if that step is legal from where it is. Returns whether it moved."""
        with self.database.transaction() as connection:
            return _apply(connection, run_id, state, columns, error)

    def record(self, run_id: str, **columns: Any) -> None:
        """Set columns of an active run without changing its state."""
        _check_columns(columns)
        names = ", ".join(f"{name}=?" for name in columns)
        marks = ",".join("?" * len(ACTIVE))
        with self.database.transaction() as connection:
            connection.execute(
                f"UPDATE runs SET {names} WHERE run_id=? AND state IN ({marks})", (*columns.values(), run_id, *ACTIVE)
            )

    def request_cancel(self, run_id: str) -> str:
        """Write down that a run is to end. Returns the state it is in afterwards.

        A queued run is cancelled at once; a running one becomes `cancelling`; one
        that is just starting keeps its state with the wish noted, and the shim obeys it.
        """
        with self.database.transaction() as connection:
            if _apply(connection, run_id, CANCELLING, {}, None):
                connection.execute("UPDATE runs SET cancel_requested=1 WHERE run_id=?", (run_id,))
                return CANCELLING
            row = connection.execute("SELECT state FROM runs WHERE run_id=?", (run_id,)).fetchone()
            if row["state"] == QUEUED:
                connection.execute("UPDATE runs SET cancel_requested=1 WHERE run_id=?", (run_id,))
                _apply(connection, run_id, CANCELLED, {}, None)
                return CANCELLED
            if row["state"] == STARTING:
                connection.execute("UPDATE runs SET cancel_requested=1 WHERE run_id=?", (run_id,))
            return row["state"]


def _apply(
    connection: sqlite3.Connection, run_id: str, state: str, columns: dict[str, Any], error: dict[str, Any] | None
) -> bool:
    _check_columns(columns)
    origins = may_become(state)
    before = connection.execute("SELECT * FROM runs WHERE run_id=?", (run_id,)).fetchone()
    if before is None or before["state"] not in origins:
        return False
    values: dict[str, Any] = {"state": state, **columns}
    if error is not None:
        values["error"] = json.dumps(error, ensure_ascii=False)
    # A clock that was set back must not make a run end before it began.
    now = max(utc_now(), before["started_at"] or before["created_at"])
    if state == RUNNING:
        values["started_at"] = now
    elif state in TERMINAL:
        values["finished_at"] = now
    names = ", ".join(f"{name}=?" for name in values)
    marks = ",".join("?" * len(origins))
    moved = connection.execute(
        f"UPDATE runs SET {names} WHERE run_id=? AND state IN ({marks})", (*values.values(), run_id, *origins)
    ).rowcount
    if moved == 1:
        if state in TERMINAL:
            connection.execute("DELETE FROM held_slots WHERE run_id=?", (run_id,))
        _event(connection, run_id, before["state"], state, error)
    return moved == 1


def _event(
    connection: sqlite3.Connection, run_id: str, before: str | None, after: str, detail: dict[str, Any] | None
) -> None:
    connection.execute(
        "INSERT INTO events(run_id, at, state_before, state_after, detail) VALUES (?, ?, ?, ?, ?)",
        (run_id, utc_now(), before, after, json.dumps(detail, ensure_ascii=False) if detail else None),
    )


def _check_columns(columns: dict[str, Any]) -> None:
    unknown = set(columns) - COLUMNS
    if unknown:
        raise InvalidArgument(f"No such columns: {sorted(unknown)}.", next="Use the columns of the runs table.")
