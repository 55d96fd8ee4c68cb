"""Checkpoints that nothing needs any more: found, counted, removed.

A run that ended needs its newest checkpoint and its best one, to be resumed. When it was resumed and that run
succeeded, it needs none.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith import checkpoints
from tunesmith.errors import BadInput
from tunesmith.runs.states import SUCCEEDED, TERMINAL
from tunesmith.runs.store import RunRow
from tunesmith.runs.supervisor import Supervisor
from tunesmith.training.continuing import CHECKPOINTS, ancestry
from tunesmith.training.saved import FILE, Saved
from tunesmith.workspace import Workspace

SUPERSEDED = "the run that continued it succeeded"


@dataclass(frozen=True)
class Reclaimable:
    """One folder that can go.

    Attributes:
        bytes: room its removal gives, together with the others listed; a file shared with a checkpoint that stays
            gives none.
        why: one phrase for people.
    """

    run_id: str
    path: Path
    bytes: int
    why: str


def reclaimable(runs: Supervisor, *, resumable_too: bool = False) -> list[Reclaimable]:
    """What can be removed; nothing is. Runs that are queued or active, and those they continue, are left out.

    Args:
        resumable_too: also what a resume would need. Those runs can then no longer be resumed; their models stay.
    """
    workspace, rows = runs.workspace, _train_rows(runs)
    needed = _needed(workspace, rows)
    superseded = _superseded(workspace, rows)
    found: list[tuple[str, Path, str]] = []
    for row in rows:
        root = workspace.runs / row.run_id / CHECKPOINTS
        if row.state not in TERMINAL or row.run_id in needed or not root.is_dir():
            continue
        keep = set() if resumable_too or row.run_id in superseded else _needed_steps(root)
        for path in sorted(root.iterdir()):
            why = _why(path, keep, superseded=row.run_id in superseded)
            if why is not None:
                found.append((row.run_id, path, why))
    links = Counter(_inode(file) for _, path, _ in found for file in _files(path))
    counted: set[tuple[int, int]] = set()
    return [Reclaimable(run_id, path, _room(path, links, counted), why) for run_id, path, why in found]


def reclaim(runs: Supervisor, entry: Reclaimable) -> int:
    """Remove one thing that `reclaimable` listed. Returns the bytes freed: 0 if a run came to need it since."""
    if entry.run_id in _needed(runs.workspace, _train_rows(runs)):
        return 0
    if entry.path.is_dir():
        checkpoints.remove(entry.path)
    else:
        entry.path.unlink(missing_ok=True)
    return entry.bytes


def drop_ancestors(runs: Supervisor, run_id: str) -> None:
    """Remove the checkpoints of the runs that a successful one continues, unless another unfinished run needs them."""
    workspace = runs.workspace
    others = [row for row in _train_rows(runs) if row.run_id != run_id]
    needed = _needed(workspace, others)
    for ancestor in ancestry(workspace, run_id):
        if ancestor != run_id and ancestor not in needed:
            root = workspace.runs / ancestor / CHECKPOINTS
            for step in checkpoints.steps(root):
                checkpoints.remove(checkpoints.folder_of(root, step))
            shutil.rmtree(root, ignore_errors=True)


def superseded_by(runs: Supervisor, run_id: str) -> str | None:
    """The newest successful run that continues this one, if there is any."""
    for row in _train_rows(runs):
        if row.state == SUCCEEDED and row.run_id != run_id and run_id in ancestry(runs.workspace, row.run_id):
            return row.run_id
    return None


def _train_rows(runs: Supervisor) -> list[RunRow]:
    """All training runs, newest first."""
    rows: list[RunRow] = []
    before: int | None = None
    while True:
        page, before, _ = runs.store.page(kind="train", state=None, limit=500, before=before)
        rows += page
        if before is None:
            return rows


def _needed(workspace: Workspace, rows: Sequence[RunRow]) -> set[str]:
    """Runs that are queued or active, and all that they continue."""
    unfinished = [row.run_id for row in rows if row.state not in TERMINAL]
    return {ancestor for run_id in unfinished for ancestor in ancestry(workspace, run_id)}


def _superseded(workspace: Workspace, rows: Sequence[RunRow]) -> set[str]:
    """Runs that a successful run continues."""
    succeeded = [row.run_id for row in rows if row.state == SUCCEEDED]
    return {ancestor for run_id in succeeded for ancestor in ancestry(workspace, run_id) if ancestor != run_id}


def _needed_steps(root: Path) -> set[int]:
    """Of a run that ended: its newest checkpoint, and the one that knows as the best; all, if the newest is damaged."""
    sealed = checkpoints.sealed_steps(root)
    if len(sealed) < 2:
        return set(sealed)
    newest = sealed[-1]
    if checkpoints.problem_of(checkpoints.folder_of(root, newest), [FILE]) is not None:
        return set(sealed)  # a resume will set it aside and go on from one of the others
    try:
        best = Saved.read(checkpoints.folder_of(root, newest)).looks.best_step
    except BadInput:
        return set(sealed)  # not understood, so not judged
    return {newest, best}


def _why(path: Path, keep: set[int], *, superseded: bool) -> str | None:
    """Why something in a folder of checkpoints can go, or None when it cannot."""
    name = path.name.removeprefix(checkpoints.PREFIX)
    if superseded:
        return SUPERSEDED
    if not name.isdecimal():
        return "damaged" if checkpoints.SET_ASIDE in name else "half written"
    if not checkpoints.is_sealed(path):
        return "half written"
    return None if int(name) in keep else "a checkpoint"


def _files(path: Path) -> Iterator[Path]:
    return (file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def _inode(file: Path) -> tuple[int, int]:
    facts = file.stat()
    return facts.st_dev, facts.st_ino


def _room(path: Path, links: Counter[tuple[int, int]], counted: set[tuple[int, int]]) -> int:
    """Bytes of the files whose every link is listed, each once."""
    total = 0
    for file in _files(path):
        inode, facts = _inode(file), file.stat()
        if links[inode] >= facts.st_nlink and inode not in counted:
            counted.add(inode)
            total += facts.st_size
    return total
