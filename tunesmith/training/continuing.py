"""Going on from another run's checkpoint, seen from the worker: find it, verify it, take it over.

No torch here. Nothing is trusted but sealed checkpoints whose hashes match.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import checkpoints
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, NotFound, NotSupported, UserError
from tunesmith.files import write_atomic
from tunesmith.training import saved
from tunesmith.training.saved import Saved
from tunesmith.work import Work
from tunesmith.workspace import Workspace, check_id

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"


@dataclass(frozen=True)
class Start:
    """Where a run goes on.

    Attributes:
        run_id: the run that wrote the checkpoint.
        checkpoint: it, in this run's own folder.
        set_aside: a line for each damaged checkpoint that was passed over.
    """

    run_id: str
    checkpoint: Path
    saved: Saved
    set_aside: list[str]


def ancestry(workspace: Workspace, run_id: str) -> Iterator[str]:
    """The run, the run it continues, the one that one continues, and so on."""
    seen: set[str] = set()
    while run_id not in seen:
        seen.add(run_id)
        yield run_id
        try:
            spec = json.loads((workspace.runs / run_id / "spec.json").read_text(encoding="utf-8"))
            run_id = check_id("run", str(spec["args"]["resume_from"]))
        except (OSError, ValueError, KeyError, TypeError, UserError):
            return


def take_over(work: Work, source: str, root: Path) -> Start:
    """Find the newest whole checkpoint of `source`, link it and the best one into `root`, begin the metrics with its.

    A source that was itself to go on and ended before it had taken anything over is passed by: its own source is
    looked at instead.

    Raises:
        NotFound: code no_checkpoint; what was found damaged is named.
        BadInput: another version wrote the checkpoint.
    """
    root.mkdir(parents=True, exist_ok=True)
    set_aside: list[str] = []
    for run_id in ancestry(work.workspace, check_id("run", source)):
        theirs = work.workspace.runs / run_id / CHECKPOINTS
        found, problems = checkpoints.newest_whole(theirs, required=[saved.FILE])
        set_aside += [f"{run_id}: {problem}" for problem in problems]
        if found is None:
            continue
        state = Saved.read(found)
        checkpoint = checkpoints.link(found, root)
        state, lost = _take_best(state, theirs, root)
        set_aside += [f"{run_id}: {problem}" for problem in lost]
        _copy_metrics(work.workspace.runs / run_id / METRICS, work.run_dir / METRICS, state.step)
        return Start(run_id, checkpoint, state, set_aside)
    damaged = f" Damaged: {' '.join(set_aside)}" if set_aside else ""
    raise no_checkpoint(f"{source} has no whole checkpoint to go on from.{damaged}")


def no_checkpoint(message: str) -> NotFound:
    """There is nothing to go on from."""
    return NotFound(message, next="Train from the beginning with start_training.", code="no_checkpoint")


def check_same_rows(workspace: Workspace, state: Saved) -> None:
    """Refuse a dataset that is gone or whose rows are others than those trained on.

    Raises:
        NotFound, BadInput.
    """
    try:
        path = DatasetStore(workspace).rows_path(state.dataset_id)
    except UserError as error:
        raise NotFound(
            f"The dataset of this training is gone: {error.message}",
            next="Restore it, or start_training with another dataset.",
        ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != state.dataset_sha256:
        raise BadInput(
            f"The rows of {state.dataset_id} are not those this training began with: the file was changed.",
            next="Restore rows.jsonl, or start_training anew.",
        )


def check_same_base(fingerprint: str, state: Saved) -> None:
    """Refuse a base other than the one the adapter was trained on.

    Raises:
        BadInput.
    """
    if fingerprint != state.base_fingerprint:
        raise BadInput(
            f"The base model {state.base_model!r} is not the one this training began with: its files were changed.",
            next="Restore it, or start_training anew.",
        )


def check_same_numbers(device: str, dtype: str, state: Saved) -> None:
    """Refuse another kind of device or another number format: that would be another training.

    Raises:
        NotSupported.
    """
    if (device, dtype) != (state.device, state.dtype):
        raise NotSupported(
            f"This training began on {state.device} in {state.dtype}; here it would go on on {device} in {dtype}.",
            next=f"Resume it where {state.device} is there, or start_training anew.",
        )


def check_same_packing(joins: bool, state: Saved) -> None:
    """Refuse to put packed rows into other sequences: some would be seen twice in an epoch and some not at all.

    Raises:
        NotSupported.
    """
    if joins != state.joins:
        raise NotSupported(
            "This training packs its rows without a mask, which its engine cannot do with this card and PyTorch.",
            next="Resume it with a card and a PyTorch like those it began with, or start_training anew.",
        )


def _take_best(state: Saved, theirs: Path, root: Path) -> tuple[Saved, list[str]]:
    """Link the best checkpoint too. One that is damaged is forgotten: the best from here on will be kept."""
    best = state.looks.best_step
    if best in (0, state.step):
        return state, []
    folder = checkpoints.folder_of(theirs, best)
    problem = checkpoints.problem_of(folder) if folder.is_dir() else "it is gone"
    if problem is None:
        checkpoints.link(folder, root)
        return state, []
    line = checkpoints.set_aside(folder, problem) + " It was the best; the best from here on is kept instead."
    return state.model_copy(update={"looks": state.looks.model_copy(update={"best": None, "best_step": 0})}), [line]


def _copy_metrics(source: Path, target: Path, step: int) -> None:
    """The source's lines up to `step`, each step once: one trained again after a recovery counts as it was last."""
    kept: dict[tuple[Any, bool], bytes] = {}
    for text in source.read_bytes().splitlines() if source.is_file() else []:
        try:
            line = json.loads(text)
            key = (line["step"], line.get("eval_loss") is not None)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # half a line, left by a crash
        if line["step"] <= step:
            kept[key] = text
    # By step; of one step the loss comes before the look.
    write_atomic(target, b"".join(kept[key] + b"\n" for key in sorted(kept)))
