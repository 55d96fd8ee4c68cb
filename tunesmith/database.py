"""The workspace's SQLite database: opening, migrating, transactions.

WAL and `synchronous=FULL`: several servers share one file, and what a caller was
told is on the disk. Every `sqlite3` error that a caller can meet becomes one of ours.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import DiskFull, StoreBusy, StoreCorrupt, StoreTooNew, UserError, WorkspaceUnusable

BUSY_TIMEOUT_S = 10.0

# Ordered, named, append-only: a migration that was released is never edited.
MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "0001_runs_datasets_models_comparisons",
        """
        CREATE TABLE runs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            run_id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            state TEXT NOT NULL,
            slot_class TEXT NOT NULL,
            slot TEXT,
            idempotency_key TEXT UNIQUE,
            resume_of TEXT,
            created_at TEXT NOT NULL,
            started_at TEXT,
            finished_at TEXT,
            spawn_deadline REAL,
            boot_id TEXT,
            shim_pid INTEGER,
            shim_started REAL,
            worker_pid INTEGER,
            worker_started REAL,
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            forced INTEGER NOT NULL DEFAULT 0,
            exit_code INTEGER,
            error TEXT
        ) STRICT;
        CREATE UNIQUE INDEX one_active_run_a_slot ON runs(slot)
            WHERE slot IS NOT NULL AND state IN ('starting', 'running', 'cancelling');
        CREATE INDEX runs_by_state ON runs(state, seq);
        CREATE INDEX runs_by_kind ON runs(kind, seq);
        CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            run_id TEXT NOT NULL,
            at TEXT NOT NULL,
            state_before TEXT,
            state_after TEXT NOT NULL,
            detail TEXT
        ) STRICT;
        CREATE INDEX events_by_run ON events(run_id, seq);
        CREATE TABLE datasets (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            created_at TEXT NOT NULL,
            manifest TEXT NOT NULL
        ) STRICT;
        CREATE TABLE models (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            run_id TEXT,
            created_at TEXT NOT NULL,
            manifest TEXT NOT NULL
        ) STRICT;
        CREATE INDEX models_by_run ON models(run_id);
        CREATE TABLE comparisons (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            created_at TEXT NOT NULL,
            manifest TEXT NOT NULL
        ) STRICT;
        """,
    ),
    (
        "0002_slots_by_run",
        """
        ALTER TABLE runs ADD COLUMN slots TEXT NOT NULL DEFAULT '["cpu0", "cpu1"]';
        UPDATE runs SET slots = '["device0"]' WHERE slot_class = 'device';
        ALTER TABLE runs DROP COLUMN slot_class;
        ALTER TABLE runs ADD COLUMN orphaned INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE runs ADD COLUMN request_sha256 TEXT;
        UPDATE runs SET spawn_deadline=NULL, shim_pid=NULL, shim_started=NULL, worker_pid=NULL, worker_started=NULL
            WHERE state IN ('starting', 'running', 'cancelling')
        """,  # those times were of the clock, and are now counted from the boot: an active run is known by its lock
    ),
    (
        "0003_several_slots_a_run",
        """
        ALTER TABLE runs ADD COLUMN slots_needed INTEGER NOT NULL DEFAULT 1;
        CREATE TABLE held_slots (slot TEXT PRIMARY KEY, run_id TEXT NOT NULL) STRICT;
        CREATE INDEX held_slots_by_run ON held_slots(run_id);
        INSERT INTO held_slots SELECT slot, run_id FROM runs
            WHERE slot IS NOT NULL AND state IN ('starting', 'running', 'cancelling')
        """,  # runs.slot stays the first slot that a run got, also after its end
    ),
)


class Database:
    """One SQLite file, one connection a thread, migrated on first use.

    What happens to the file meanwhile is heeded: another one in its place is opened, and one that a newer version
    has migrated is neither read nor written any more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def read(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._translated():
            connection = self._connection()
            try:
                return connection.execute(sql, parameters).fetchall()
            finally:
                # Afterwards, so that a migration in between is seen, and also when a column is not there any more.
                self._refuse_newer(connection)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed when the block ends, rolled back on an exception."""
        with self._translated():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._refuse_newer(connection)
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is not None and not connection.in_transaction and self._file() != self._local.file:
            # What is still in the log belongs to the file that was taken away, and would damage the one in its place.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.close()
            connection = None
        if connection is None:
            connection = self._open()
            self._local.connection = connection
        return connection

    def _file(self) -> tuple[int, int] | None:
        """Which file lies at the path; None for none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        self._local.file = self._file()
        try:
            connection.row_factory = sqlite3.Row
            self._refuse_newer(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            done = self._refuse_newer(connection)
            for number, (_name, script) in enumerate(MIGRATIONS[done:], start=done + 1):
                for statement in script.split(";"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version={number}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _refuse_newer(self, connection: sqlite3.Connection) -> int:
        """The number of migrations done; an error, before anything is written, when there are more than we know."""
        done = connection.execute("PRAGMA user_version").fetchone()[0]
        if done > len(MIGRATIONS):
            raise StoreTooNew(
                f"{self.path} was written by a newer tunesmith (schema {done}, this one knows {len(MIGRATIONS)}).",
                next="Upgrade tunesmith, or choose another folder with --workspace.",
            )
        return done

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # a constraint is the caller's to interpret
        except sqlite3.DatabaseError as error:
            raise self._as_user_error(error) from error

    def _as_user_error(self, error: sqlite3.DatabaseError) -> UserError | sqlite3.DatabaseError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreBusy(
                f"Another process has held {self.path} for {BUSY_TIMEOUT_S:.0f} s.", next="Make the same call again."
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreCorrupt(
                f"{self.path} is not a readable database ({error}). Nothing was deleted.",
                next="Move that file away, or restore a copy of it, and call again.",
            )
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(f"There is no room to write {self.path}.", next="Free some space and call again.")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
            return WorkspaceUnusable(
                f"{self.path} cannot be opened for writing ({error}).",
                next="Check the folder's permissions, or choose another with --workspace.",
            )
        return error
