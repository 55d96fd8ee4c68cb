"""Runs in the database: one row a run, one event a transition, both in one transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tunesmith.database import Database
from tunesmith.errors import InvalidArgument, NotFound
from tunesmith.runs.states import ACTIVE, CANCELLED, CANCELLING, QUEUED, STARTING, may_become

SPAWN_DEADLINE_S = 60.0
# A class of work and the slots it may run in. One device run at a time: two trainings would share one card's memory.
SLOTS: dict[str, tuple[str, ...]] = {"device": ("device0",), "cpu": ("cpu0", "cpu1")}
COLUMNS = frozenset(
    {
        "slot",
        "spawn_deadline",
        "boot_id",
        "shim_pid",
        "shim_started",
        "worker_pid",
        "worker_started",
        "forced",
        "exit_code",
    }
)


@dataclass(frozen=True)
class RunRow:
    """A run as the database has it. Times are ISO 8601 UTC; `seq` is the order of creation."""

    seq: int
    run_id: str
    kind: str
    state: str
    slot_class: str
    slot: str | None
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
    forced: bool
    exit_code: int | None
    error: dict[str, Any] | None


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _row(row: sqlite3.Row) -> RunRow:
    values = {name: row[name] for name in RunRow.__dataclass_fields__}
    values["cancel_requested"], values["forced"] = bool(values["cancel_requested"]), bool(values["forced"])
    values["error"] = json.loads(values["error"]) if values["error"] else None
    return RunRow(**values)


class RunStore:
    """Every change of a run goes through here."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def insert(
        self, run_id: str, kind: str, slot_class: str, *, idempotency_key: str | None, resume_of: str | None
    ) -> RunRow:
        """Queue a run. With an idempotency key that is already taken, the run that has it is returned."""
        with self.database.transaction() as connection:
            if idempotency_key is not None:
                taken = connection.execute("SELECT * FROM runs WHERE idempotency_key=?", (idempotency_key,)).fetchone()
                if taken:
                    return _row(taken)
            connection.execute(
                "INSERT INTO runs(run_id, kind, state, slot_class, idempotency_key, resume_of, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run_id, kind, QUEUED, slot_class, idempotency_key, resume_of, utc_now()),
            )
            _event(connection, run_id, None, QUEUED, None)
            return _row(connection.execute("SELECT * FROM runs WHERE run_id=?", (run_id,)).fetchone())

    def get(self, run_id: str) -> RunRow:
        """Raises `NotFound` for an unknown id."""
        rows = self.database.read("SELECT * FROM runs WHERE run_id=?", (run_id,))
        if not rows:
            raise NotFound(f"There is no run {run_id}.", next="Call list_runs to see the runs there are.")
        return _row(rows[0])

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
        rows = self.database.read(
            f"SELECT * FROM runs WHERE {where} ORDER BY seq DESC LIMIT ?", (*parameters, limit + 1)
        )
        page = [_row(row) for row in rows[:limit]]
        return page, page[-1].seq if len(rows) > limit else None, total

    def active(self) -> list[RunRow]:
        marks = ",".join("?" * len(ACTIVE))
        return [_row(row) for row in self.database.read(f"SELECT * FROM runs WHERE state IN ({marks})", ACTIVE)]

    def newest_change(self) -> int:
        """The number of the newest event: changes whenever any run changes state."""
        return self.database.read("SELECT COALESCE(MAX(seq), 0) FROM events")[0][0]

    def events(self, run_id: str) -> list[tuple[str | None, str]]:
        """State before and after, oldest first."""
        rows = self.database.read("SELECT state_before, state_after FROM events WHERE run_id=? ORDER BY seq", (run_id,))
        return [(row[0], row[1]) for row in rows]

    def queue_ahead(self, row: RunRow) -> list[str]:
        """Ids of the runs a queued run waits for: active ones of its class and older queued ones."""
        rows = self.database.read(
            "SELECT run_id FROM runs WHERE slot_class=? AND (state IN (?, ?, ?) OR (state=? AND seq<?)) ORDER BY seq",
            (row.slot_class, *ACTIVE, QUEUED, row.seq),
        )
        return [found[0] for found in rows]

    def claim_next(self) -> RunRow | None:
        """Take the oldest queued run that has a free slot; it becomes `starting`. None if there is none.

        Two claimers never get the same run: one write transaction, and a unique index on the slot.
        """
        with self.database.transaction() as connection:
            marks = ",".join("?" * len(ACTIVE))
            taken = {
                row[0]
                for row in connection.execute(f"SELECT slot FROM runs WHERE state IN ({marks})", ACTIVE).fetchall()
            }
            for row in connection.execute("SELECT * FROM runs WHERE state=? ORDER BY seq", (QUEUED,)):
                free = [slot for slot in SLOTS[row["slot_class"]] if slot not in taken]
                if free:
                    _apply(
                        connection,
                        row["run_id"],
                        STARTING,
                        {"slot": free[0], "spawn_deadline": time.time() + SPAWN_DEADLINE_S},
                        None,
                    )
                    return _row(connection.execute("SELECT * FROM runs WHERE seq=?", (row["seq"],)).fetchone())
        return None

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
    before = connection.execute("SELECT state FROM runs WHERE run_id=?", (run_id,)).fetchone()
    if before is None or before["state"] not in origins:
        return False
    values: dict[str, Any] = {"state": state, **columns}
    if error is not None:
        values["error"] = json.dumps(error, ensure_ascii=False)
    if state == "running":
        values["started_at"] = utc_now()
    elif state not in (*ACTIVE, QUEUED):
        values["finished_at"] = utc_now()
    names = ", ".join(f"{name}=?" for name in values)
    marks = ",".join("?" * len(origins))
    moved = connection.execute(
        f"UPDATE runs SET {names} WHERE run_id=? AND state IN ({marks})", (*values.values(), run_id, *origins)
    ).rowcount
    if moved == 1:
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
