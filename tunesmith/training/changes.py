"""The one change to a recipe that a symptom asks for, as options that start_training takes as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.errors import InvalidArgument
from tunesmith.training.recipe import RecipeOptions, parse_options

USUAL_RATE = 2e-4
FOLLOWING = ("warmup_steps", "eval_steps", "save_steps")  # the planner chooses them from the number of steps
Change = dict[str, Any]


def first_usable(recipe: Mapping[str, Any], changes: Iterator[Change]) -> dict[str, Any]:
    """The recipe as options with the first of these changes that changes something and can be started; else nothing.

    A change to None leaves the field to the planner. So is what follows from the number of steps, where that changes.
    """
    options = {
        name: value for name, value in recipe.items() if value is not None and name in RecipeOptions.model_fields
    }
    if options.get("method") == "full":
        for name in ("rank", "alpha", "dropout", "target_modules"):
            options.pop(name, None)
    for change in changes:
        changed = {name: value for name, value in {**options, **change}.items() if value is not None}
        if changed == options:
            continue
        if "epochs" in change or "max_steps" in change:
            for name in FOLLOWING:
                changed.pop(name, None)
        try:
            parse_options(changed)
        except InvalidArgument:
            continue
        return changed
    return {}


def shorter(recipe: Mapping[str, Any], steps_done: int) -> Iterator[Change]:
    """About half of the passes."""
    epochs, limit = recipe.get("epochs"), recipe.get("max_steps")
    if isinstance(limit, int) and limit <= steps_done:  # it was this bound that ended the run
        yield {"max_steps": max(1, limit // 2)}
    elif isinstance(epochs, int | float):
        yield {"epochs": max(0.5, round(epochs / 2, 1))}


def longer(recipe: Mapping[str, Any], steps_done: int) -> Iterator[Change]:
    """More steps: four times those that were made, at least some fifty."""
    epochs, limit = recipe.get("epochs"), recipe.get("max_steps")
    if isinstance(limit, int) and limit <= steps_done:
        yield {"max_steps": max(50, 4 * limit)}
    elif isinstance(epochs, int | float):
        yield {"epochs": min(100.0, round(epochs * max(4, 50 / max(1, steps_done)), 1))}


def rate(recipe: Mapping[str, Any], factor: float) -> Iterator[Change]:
    """The learning rate times a factor, to two digits: it is never known better."""
    now = recipe.get("learning_rate")
    if isinstance(now, int | float):
        yield {"learning_rate": min(1.0, max(1e-9, float(f"{now * factor:.1e}")))}


def less_memory(recipe: Mapping[str, Any], halvings: int = 1) -> Iterator[Change]:
    """The micro-batch halved so often, with the same effective batch; when it is one, recomputation."""
    batch, accumulation = recipe.get("batch_size"), recipe.get("gradient_accumulation")
    if isinstance(batch, int) and isinstance(accumulation, int) and batch > 1:
        effective = batch * accumulation
        smaller = next(size for size in range(max(1, batch >> min(halvings, 32)), 0, -1) if effective % size == 0)
        yield {"batch_size": smaller, "gradient_accumulation": effective // smaller}
    yield {"gradient_checkpointing": "on"}


def larger_batch(recipe: Mapping[str, Any]) -> Iterator[Change]:
    """Twice the effective batch."""
    accumulation = recipe.get("gradient_accumulation")
    if isinstance(accumulation, int):
        yield {"gradient_accumulation": min(4096, accumulation * 2)}


def wider(recipe: Mapping[str, Any]) -> Iterator[Change]:
    """All linear layers where the adapter had one (the planner knows them), else twice the rank."""
    rank, modules = recipe.get("rank"), recipe.get("target_modules")
    if isinstance(modules, list) and len(modules) == 1:
        yield {"target_modules": None}
    if isinstance(rank, int):
        yield {"rank": min(512, rank * 2)}
