"""Names that models have in Ollama for a while, noted on disk before they are made.

A run that is killed cannot take its trial model away. The note stays, its lock is
freed by the system, and the next registration from this workspace removes the
model: by a name that was noted here, never by what a name looks like.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import NotFound, UserError
from tunesmith.machine.ollama import OllamaClient
from tunesmith.workspace import Workspace

PREFIX = "tunesmith-trial-"
FORGOTTEN_S = 30 * 24 * 3600  # a note about a server that was not seen since is dropped
_NOTE = re.compile(rf"{PREFIX}[0-9a-f]{{12}}\.json")


class Trials:
    """The notes of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.cache / "ollama-trials"

    @contextlib.contextmanager
    def name(self, client: OllamaClient) -> Iterator[str]:
        """A name that nobody else uses; the model that has it is removed afterwards, if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{PREFIX}{secrets.token_hex(6)}"
        note = self.folder / f"{stem}.json"
        with note.open("w", encoding="utf-8") as file:
            _lock(file.fileno())
            json.dump({"host": client.host, "made_at": time.time()}, file)
            file.flush()
            try:
                yield f"{stem}:latest"
            finally:
                gone = _remove(client, f"{stem}:latest")
        if gone:
            note.unlink(missing_ok=True)

    def sweep(self, client: OllamaClient) -> int:
        """Remove what runs that were killed left at this server; how many models that were."""
        removed = 0
        for note in self.folder.glob(f"{PREFIX}*.json") if self.folder.is_dir() else ():
            if not _NOTE.fullmatch(note.name):
                continue
            with contextlib.suppress(OSError), note.open("r+", encoding="utf-8") as file:
                if not _lock(file.fileno()):
                    continue
                done = self._sweep_one(client, note, file.read())
                removed += done
        return removed

    def _sweep_one(self, client: OllamaClient, note: Path, text: str) -> bool:
        try:
            host = json.loads(text)["host"]
        except (ValueError, KeyError, TypeError):  # killed while it was writing: before the model was made
            note.unlink(missing_ok=True)
            return False
        if host != client.host:
            if time.time() - note.stat().st_mtime > FORGOTTEN_S:
                note.unlink(missing_ok=True)
            return False
        try:
            client.delete(f"{note.stem}:latest")
        except NotFound:
            note.unlink(missing_ok=True)
            return False
        except UserError:
            return False
        note.unlink(missing_ok=True)
        return True


def _remove(client: OllamaClient, name: str) -> bool:
    """Delete a model of ours; False when the server could not be asked, so that a later run tries again."""
    try:
        client.delete(name)
    except NotFound:
        return True
    except UserError:
        # If Ollama went away in the meantime, that is the error to show, not this one.
        return False
    return True


def _lock(descriptor: int) -> bool:
    """Whether this process has the lock on an open file now; the system frees it when the process dies."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 2**30, os.SEEK_SET)  # far behind the text, which others may read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
