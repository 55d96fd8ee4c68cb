"""Checkpoints that are whole or do not count.

The trainer writes `checkpoints/checkpoint-STEP/`; sealing it means writing
`COMPLETE.json` last, with the size and SHA-256 of every file. Only a sealed folder
whose files still match is ever resumed from; any other is set aside under another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from tunesmith.files import TEMPORARY_PREFIX, fsync_path, write_atomic

SEAL = "COMPLETE.json"
PREFIX = "checkpoint-"
SET_ASIDE = ".damaged"


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"{PREFIX}{step}"


def step_of(folder: Path) -> int:
    """The optimizer step of a checkpoint's folder."""
    return int(folder.name.removeprefix(PREFIX))


def seal(folder: Path, step: int) -> None:
    """Declare a checkpoint whole. Everything in it is on the disk before its seal is."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SEAL:
            fsync_path(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    write_atomic(folder / SEAL, json.dumps({"step": step, "files": files}, indent=1))


def is_sealed(folder: Path) -> bool:
    """Whether it was finished once. Damage since then is not seen."""
    return (folder / SEAL).is_file()


def problem_of(folder: Path, required: Collection[str] = ()) -> str | None:
    """What is wrong with a checkpoint, or None when it is whole.

    Args:
        required: files that the seal must name.
    """
    try:
        content = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files, step = content["files"], content["step"]
        lacking = [name for name in required if name not in files]
    except FileNotFoundError:
        return f"it has no {SEAL}: it was never finished"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {SEAL} cannot be read"
    if folder.name != f"{PREFIX}{step}":
        return f"its {SEAL} speaks of step {step}"
    if lacking:
        return f"it was written without {', '.join(lacking)}, by an earlier version"
    for name, facts in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return f"{name} is missing or has another size"
        if _sha256(path) != facts["sha256"]:
            return f"{name} was changed"
    return None


def newest_whole(root: Path, required: Collection[str] = ()) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a line for each newer one that was set aside."""
    problems = []
    for step in sorted(steps(root), reverse=True):
        folder = folder_of(root, step)
        problem = problem_of(folder, required)
        if problem is None:
            return folder, problems
        problems.append(set_aside(folder, problem))
    return None, problems


def set_aside(folder: Path, problem: str) -> str:
    """Give a damaged checkpoint another name, so that nothing takes it for one. Returns a line for the log."""
    with contextlib.suppress(FileNotFoundError):  # another process did it first
        folder.rename(_free_name(folder))
    return f"{folder.name} was set aside: {problem}."


def newest_sealed_step(root: Path) -> int | None:
    """The newest step whose checkpoint has its seal, or None. Cheap: no file is read, so damage is not seen."""
    return max(sealed_steps(root), default=None)


def sealed_steps(root: Path) -> list[int]:
    """Steps whose checkpoints have their seal, ascending. Nothing is verified."""
    return [step for step in sorted(steps(root)) if is_sealed(folder_of(root, step))]


def link(folder: Path, root: Path) -> Path:
    """A second checkpoint of the same content under another root: hard links, or copies where there can be none.

    Whole or absent. Nobody ever writes into a checkpoint, so sharing its files is safe.
    """
    target = root / folder.name
    temporary = root / f"{TEMPORARY_PREFIX}{folder.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place = temporary / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place)
            except OSError:
                shutil.copyfile(path, place)
                fsync_path(place)
    temporary.rename(target)
    return target


def prune(root: Path, *, keep: int, protect: Iterable[int] = ()) -> None:
    """Remove all but the newest `keep` sealed checkpoints and the protected steps."""
    protected = set(protect)
    for step in sealed_steps(root)[: -keep or None]:
        if step not in protected:
            remove(folder_of(root, step))


def remove(folder: Path) -> None:
    """Delete a checkpoint. The seal goes first: half a folder must not look whole."""
    (folder / SEAL).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def steps(root: Path) -> list[int]:
    """Steps that have a folder, sealed or not, in no order."""
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
