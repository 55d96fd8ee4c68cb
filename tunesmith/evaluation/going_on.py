"""Going on with a comparison that ended early: the same call finds its answers and judgements again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

from tunesmith.evaluation.request import CompareRequest
from tunesmith.evaluation.store import COMPARISON_FILE
from tunesmith.files import write_atomic
from tunesmith.workspace import Workspace

REQUEST_FILE = "request.sha256"
LOCK_FILE = ".running"
# What has no influence on the answers: another judge may judge those that are there.
_ASIDE = {"judge", "comparison_id"}


class Hold:
    """A comparison's folder, held by one run. The system frees it when the process dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)


def hold(folder: Path) -> Hold | None:
    """Hold a comparison's folder; None where another run does."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return Hold(descriptor)


def note_request(folder: Path, request: CompareRequest) -> None:
    """Write down what a comparison is asked, so that the same call goes on with it if it ends early."""
    write_atomic(folder / REQUEST_FILE, _digest(request))


def abandoned(workspace: Workspace, request: CompareRequest) -> tuple[str, Hold] | None:
    """A comparison that was begun by the same call and ended before it was complete, newest first; held.

    What was asked counts, not by whom it is judged. The models' answers are looked up by the digests of their files, so
    one that was trained anew meanwhile is asked anew.
    """
    wanted = _digest(request)
    folders = sorted(workspace.comparisons.glob("cmp_*"), key=_begun, reverse=True)
    for folder in folders:
        with contextlib.suppress(OSError):
            if (folder / COMPARISON_FILE).exists() or (folder / REQUEST_FILE).read_text(encoding="utf-8") != wanted:
                continue
            held = hold(folder)
            if held is not None:
                return folder.name, held
    return None


def _begun(folder: Path) -> float:
    try:
        return (folder / REQUEST_FILE).stat().st_mtime
    except OSError:
        return 0.0


def _digest(request: CompareRequest) -> str:
    content = json.dumps(request.model_dump(exclude=_ASIDE), sort_keys=True)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()
