"""Room on the workspace's disk: a run that could not save what it learns is refused before it begins.

What is counted is what lies there at its fullest: the newest checkpoints, the best one, the one that is being
written, and the model that is kept.
"""

from __future__ import annotations

import shutil

from tunesmith.errors import DiskFull
from tunesmith.training.memory import ADAM_8BIT_BYTES, GIB, Shape
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import PlannedDisk
from tunesmith.workspace import Workspace

KEEP_CHECKPOINTS = 2  # the newest; the best is kept besides
TOKENIZER_BYTES = 24 * 2**20  # in each checkpoint and beside the model, with the trainer's own notes
FLOAT = 4


def checkpoint_bytes(shape: Shape, recipe: Recipe) -> float:
    """One checkpoint: what is trained, its optimizer state, the tokenizer."""
    trained, number = _trained(shape, recipe)
    state = ADAM_8BIT_BYTES if "8bit" in recipe.optimizer else 2 * number
    return trained * (number + state) + TOKENIZER_BYTES


def run_bytes(shape: Shape, recipe: Recipe) -> float:
    """All that a run may hold at a time: so many checkpoints, and the model."""
    trained, number = _trained(shape, recipe)
    return (KEEP_CHECKPOINTS + 2) * checkpoint_bytes(shape, recipe) + trained * number + TOKENIZER_BYTES


def planned_disk(workspace: Workspace, shape: Shape, recipe: Recipe) -> PlannedDisk:
    """What the run needs of the workspace's disk, against what is free there now."""
    needed, free = run_bytes(shape, recipe), shutil.disk_usage(workspace.root).free
    return PlannedDisk(needed_gib=round(needed / GIB, 2), free_gib=round(free / GIB, 2), fits=needed <= free)


def no_room(disk: PlannedDisk, recipe: Recipe) -> str:
    """The sentence about a disk that is too full."""
    what = "every weight" if recipe.adapter is None else "the adapter"
    return (
        f"Checkpoints and model take up to {disk.needed_gib:.2f} GiB ({what} with its optimizer state, "
        f"{KEEP_CHECKPOINTS + 2} times, and once more), and {disk.free_gib:.2f} GiB are free on the workspace's disk."
    )


def check_disk(disk: PlannedDisk, recipe: Recipe) -> None:
    """Refuse a run whose checkpoints have no room.

    Raises:
        DiskFull: naming what is needed and free.
    """
    if disk.fits:
        return
    smaller = ", train an adapter (method='lora')" if recipe.adapter is None else ", use a lower rank"
    raise DiskFull(
        no_room(disk, recipe),
        next=f"Free {disk.needed_gib - disk.free_gib:.2f} GiB (`tunesmith runs clean` removes what has served)"
        f"{smaller}, or choose a workspace on another disk with --workspace.",
    )


def _trained(shape: Shape, recipe: Recipe) -> tuple[int, int]:
    """(trained weights, bytes of one)."""
    if recipe.adapter is None:
        return shape.parameters, FLOAT
    trained = shape.adapter_parameters(recipe.adapter.rank, recipe.adapter.target_modules)
    # As in memory.py: TRL casts an adapter to 16 bits when the base is quantised.
    return trained, 2 if recipe.method == "qlora" and recipe.engine == "transformers" else FLOAT
