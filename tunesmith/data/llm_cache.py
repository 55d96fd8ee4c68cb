"""Answers of language models, kept so that nothing is asked, and paid, twice.

One SQLite file in the workspace's cache. An answer is on the disk before it is
used: a run that is killed and started again goes on where it stood. Several runs
may use the file at once. Above its bound the answers that were used least
recently go; the file may be deleted at any time between runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tunesmith.data.records import Message
from tunesmith.errors import DiskFull, StoreBusy

FILE = "llm-answers.db"
MAX_BYTES = 256 * 2**20
KEPT_SHARE = 0.75  # of the bound, after it was reached
BUSY_TIMEOUT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    used_at REAL NOT NULL,
    bytes INTEGER NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class KeptAnswer:
    """An answer with what it cost; None where nobody counted."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


def answer_key(identity: str, version: int, messages: Sequence[Message], schema: Mapping[str, Any], limit: int) -> str:
    """The digest under which an answer is kept: of everything that it depends on.

    Args:
        identity: which model exactly.
        version: of the way in which answers are asked for and read.
        limit: the longest answer, in tokens.
    """
    asked = [[message.role, message.content] for message in messages]
    content = json.dumps([identity, version, asked, schema, limit], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


class AnswerCache:
    """The answers. For one thread; use as a context manager.

    Args:
        folder: where the file lies.
        max_bytes: of all texts together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = folder / FILE
        self._max_bytes = max_bytes
        self._used: list[str] = []

    def __enter__(self) -> AnswerCache:
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise self._named(error) from error
            # Damaged. It holds nothing that cannot be asked for again.
            for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
                self.path.with_name(name).unlink(missing_ok=True)
            self._connection = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connection), self._connection:
            now = time.time()
            self._connection.executemany(
                "UPDATE answers SET used_at = ? WHERE key = ?", [(now, key) for key in self._used]
            )

    def get(self, key: str) -> KeptAnswer | None:
        """The answer kept under a key."""
        found = self._connection.execute(
            "SELECT text, prompt_tokens, completion_tokens FROM answers WHERE key = ?", (key,)
        ).fetchone()
        if found is None:
            return None
        self._used.append(key)
        return KeptAnswer(*found)

    def put(self, key: str, answer: KeptAnswer) -> None:
        """Keep an answer. It is on the disk when this returns.

        Raises:
            DiskFull: there is no room.
        """
        size = len(answer.text.encode("utf-8", "surrogatepass"))
        text = answer.text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be stored
        try:
            with self._connection:
                self._connection.execute(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                    (key, time.time(), size, answer.prompt_tokens, answer.completion_tokens, text),
                )
        except sqlite3.OperationalError as error:
            raise self._named(error) from error

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                connection.execute(_SCHEMA)
                self._trim(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _trim(self, connection: sqlite3.Connection) -> None:
        total = int(connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM answers").fetchone()[0])
        if total <= self._max_bytes:
            return
        excess = total - int(self._max_bytes * KEPT_SHARE)
        going: list[tuple[str]] = []
        for key, size in connection.execute("SELECT key, bytes FROM answers ORDER BY used_at"):
            if excess <= 0:
                break
            going.append((key,))
            excess -= size
        connection.executemany("DELETE FROM answers WHERE key = ?", going)

    def _named(self, error: sqlite3.OperationalError) -> Exception:
        if "full" in str(error):
            return DiskFull(
                f"There is no room to keep answers in {self.path}.",
                next="Free some space and make the same call again.",
            )
        if "locked" in str(error):
            return StoreBusy(f"Another process holds {self.path}.", next="Make the same call again in a moment.")
        return error
