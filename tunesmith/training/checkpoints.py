"""Checkpoints that are whole or do not count.

The trainer writes `checkpoints/checkpoint-STEP/`; sealing it means writing
`COMPLETE.json` last, with the size and SHA-256 of every file. Only a sealed folder
whose files still match is ever resumed from; any other is set aside under another name.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from tunesmith.files import fsync_path, write_atomic

SEAL = "COMPLETE.json"
PREFIX = "checkpoint-"
SET_ASIDE = ".damaged"


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"{PREFIX}{step}"


def seal(folder: Path, step: int) -> None:
    """Declare a checkpoint whole. Everything in it is on the disk before its seal is."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SEAL:
            fsync_path(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    write_atomic(folder / SEAL, json.dumps({"step": step, "files": files}, indent=1))


def problem_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when it is whole."""
    try:
        content = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files, step = content["files"], content["step"]
    except FileNotFoundError:
        return f"it has no {SEAL}: it was never finished"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {SEAL} cannot be read"
    if folder.name != f"{PREFIX}{step}":
        return f"its {SEAL} speaks of step {step}"
    for name, facts in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return f"{name} is missing or has another size"
        if _sha256(path) != facts["sha256"]:
            return f"{name} was changed"
    return None


def newest_whole(root: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a line for each newer one that was set aside."""
    problems = []
    for step in sorted(_steps(root), reverse=True):
        folder = folder_of(root, step)
        problem = problem_of(folder)
        if problem is None:
            return folder, problems
        problems.append(f"{folder.name} was set aside: {problem}.")
        folder.rename(_free_name(folder))
    return None, problems


def prune(root: Path, *, keep: int, protect: Iterable[int] = ()) -> None:
    """Remove all but the newest `keep` sealed checkpoints and the protected steps."""
    protected = set(protect)
    sealed = [step for step in sorted(_steps(root), reverse=True) if (folder_of(root, step) / SEAL).is_file()]
    for step in sealed[keep:]:
        if step not in protected:
            # The seal first: half a folder must not look whole.
            (folder_of(root, step) / SEAL).unlink()
            shutil.rmtree(folder_of(root, step))


def _steps(root: Path) -> list[int]:
    if not root.is_dir():
        return []
    names = (path.name.removeprefix(PREFIX) for path in root.iterdir() if path.name.startswith(PREFIX))
    return [int(name) for name in names if name.isdecimal()]


def _free_name(folder: Path) -> Path:
    number = 1
    while (target := folder.with_name(f"{folder.name}{SET_ASIDE}{number}")).exists():
        number += 1
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
