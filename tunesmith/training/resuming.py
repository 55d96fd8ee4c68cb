"""Whether a training run can be resumed, with which changes, and the arguments of the run that goes on.

Resuming is one training in two runs. What may change is how long it goes on, how it fits into memory, and when it
looks and saves; of the learning itself only what leaves the optimizer's state meaningful:

 - `learning_rate`: the schedule's peak. AdamW's moments do not depend on the rate.
 - `max_grad_norm`: a guard on single steps.
 - `processes`: each step is made of the same rows, by however many. Only the random numbers of dropout are others.
 - `epochs`, `max_steps`: the schedule is laid out anew over the whole new length, so that each step from here on
   has the rate it would have had in a run of that length; earlier steps stay as they were.

All else would make it two trainings: another adapter (method, rank, alpha, dropout, target_modules), other rows or
another order of them (prompt_format, max_length, packing, eval_fraction, seed, another effective batch), state that
does not fit (optimizer, weight_decay, engine), another schedule (scheduler, warmup_steps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tunesmith import checkpoints
from tunesmith.errors import Conflict, InvalidArgument, UserError
from tunesmith.runs.states import CANCELLING, SUCCEEDED, TERMINAL
from tunesmith.runs.store import RunRow
from tunesmith.runs.supervisor import Supervisor
from tunesmith.training.continuing import CHECKPOINTS, ancestry, no_checkpoint
from tunesmith.training.recipe import Recipe, parse_options
from tunesmith.training.reclaiming import superseded_by
from tunesmith.training.saved import Saved
from tunesmith.training.sharing import slots_needed
from tunesmith.work import worker_command

CHANGEABLE = (
    "epochs",
    "max_steps",
    "learning_rate",
    "max_grad_norm",
    "batch_size",
    "gradient_accumulation",
    "processes",
    "gradient_checkpointing",
    "memory_budget_gib",
    "on_out_of_memory",
    "eval_steps",
    "save_steps",
    "early_stopping_patience",
)
LADDER = ("batch_size", "gradient_accumulation", "gradient_checkpointing", "engine")


def resume_run(runs: Supervisor, run_id: str, changes: Mapping[str, Any], *, idempotency_key: str | None = None) -> str:
    """Queue a run that goes on where `run_id` ended. Returns the new run's id.

    Args:
        changes: recipe fields; a field with the value it has already is no change.

    Raises:
        InvalidArgument: not a training run; fields that are unknown or may not change, all at once.
        Conflict: it goes on still, or is finished.
        NotFound: no such run; code no_checkpoint: nothing to go on from.
    """
    row = runs.row(run_id)
    if row.kind != "train":
        raise InvalidArgument(
            f"{run_id} is a run of kind {row.kind}; only training can be resumed.",
            next='Make the call that started it again. list_runs(kind="train") has the training runs.',
        )
    options = parse_options(dict(changes))
    if row.state not in TERMINAL:
        first = "" if row.state == CANCELLING else f'cancel_run(run_id="{run_id}") ends it; '
        raise Conflict(
            f"{run_id} has not ended: it is {row.state}.",
            next=f'{first}get_run(run_id="{run_id}", wait_s=30) waits for its end.',
        )
    spec = runs.spec(run_id)
    # A repeated call starts nothing, so it needs no checkpoint: the first one may have finished and removed them.
    repeated = idempotency_key is not None and runs.store.with_key(idempotency_key) is not None
    args = {} if repeated else _arguments(runs, row, spec["args"], options.given())
    return runs.submit(
        "train",
        # -P: the folder the server was started in must not stand before the library.
        worker_command("training"),
        args,
        slots=row.slots,  # the same devices
        slots_needed=row.slots_needed if repeated else _slots_needed(row, args["recipe"]["processes"]),
        environment=spec.get("environment"),
        idempotency_key=idempotency_key,
        request={"resume": run_id, "recipe_changes": dict(changes)},
        resume_of=run_id,
    )


def _slots_needed(row: RunRow, processes: int) -> int:
    """Raises `InvalidArgument` where the run had fewer cards to choose from."""
    needed = slots_needed(processes, row.slots)
    if needed > len(row.slots):
        raise InvalidArgument(
            f"processes={processes}: this training was started where there were {len(row.slots)} card(s) alike.",
            next=f"Use processes={len(row.slots)} at most.",
        )
    return needed


def _arguments(
    runs: Supervisor, row: RunRow, source_args: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    state, own = _newest_state(runs, row.run_id)
    recipe = Recipe.model_validate(source_args["recipe"])
    if own:  # as it was after stepping down when memory ran out
        recipe = recipe.model_copy(update={name: state.recipe[name] for name in LADDER})
    changed = changed_recipe(recipe, changes)
    _check_length(row, state, changed)
    arguments = {**source_args, "recipe": changed.model_dump(mode="json"), "resume_from": row.run_id}
    planned = (source_args.get("plan") or {}).get("recipe") or {}
    if any(planned.get(name) != arguments["recipe"][name] for name in LADDER):
        arguments["plan"] = None  # its prediction of memory was for another batch
    return arguments


def changed_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with the changes that a resume allows.

    Raises:
        InvalidArgument: naming every field that may not change.
    """
    new = {
        name: value
        for name, value in changes.items()
        if value != getattr(recipe, name) and not (value == "auto" and name in ("engine", "gradient_checkpointing"))
    }
    problems = [f"{name} is {getattr(recipe, name)!r}" for name in new if name not in CHANGEABLE]
    problems += _batch_problems(recipe, new)
    if problems:
        raise InvalidArgument(
            "A resumed run must stay the same training; these may not change: " + "; ".join(problems) + ".",
            next=f"Leave them out, or begin a new training with start_training. May change: {', '.join(CHANGEABLE)}.",
        )
    return recipe.model_copy(update=new)


def _batch_problems(recipe: Recipe, new: dict[str, Any]) -> list[str]:
    """Why the new batch is another effective batch. What is not given of the three is put into `new`."""
    if not {"batch_size", "gradient_accumulation", "processes"} & new.keys():
        return []
    processes = new.get("processes", recipe.processes)
    rows, left = divmod(recipe.effective_batch, processes)  # of one process in a step
    batch, accumulation = new.get("batch_size"), new.get("gradient_accumulation")
    if batch is None:
        limit = recipe.batch_size if accumulation is None else rows // accumulation
        batch = next((size for size in range(min(limit, rows), 0, -1) if rows % size == 0), 1)
    if accumulation is None:
        accumulation = max(1, rows // batch)
    if left == 0 and batch * accumulation == rows:
        new |= {"batch_size": batch, "gradient_accumulation": accumulation}
        return []
    names, factors = "batch_size × gradient_accumulation", f"{recipe.batch_size} × {recipe.gradient_accumulation}"
    if processes != 1 or recipe.processes != 1:
        names, factors = f"{names} × processes", f"{factors} × {recipe.processes}"
    return [f"{names} is {factors} = {recipe.effective_batch}"]


def _newest_state(runs: Supervisor, run_id: str) -> tuple[Saved, bool]:
    """What the newest sealed checkpoint says, and whether the run wrote or took it over itself. Nothing is hashed.

    Raises:
        NotFound: code no_checkpoint.
    """
    unreadable: UserError | None = None
    for number, ancestor in enumerate(ancestry(runs.workspace, run_id)):
        root = runs.workspace.runs / ancestor / CHECKPOINTS
        for step in reversed(checkpoints.sealed_steps(root)):
            try:
                return Saved.read(checkpoints.folder_of(root, step)), number == 0
            except UserError as error:  # damaged; the worker, which verifies, will name it and fall back likewise
                unreadable = error
    heir = superseded_by(runs, run_id)
    if heir is not None:
        missing = no_checkpoint(f"The checkpoints of {run_id} were removed when {heir}, which continued it, succeeded.")
        missing.next = f'resume_run(run_id="{heir}", recipe_changes={{"epochs": …}}) trains that one longer.'
        raise missing
    if unreadable is not None:
        raise no_checkpoint(f"No checkpoint of {run_id} can be read: {unreadable.message}")
    raise no_checkpoint(f"{run_id} ended before it had written a checkpoint.")


def _check_length(row: RunRow, state: Saved, recipe: Recipe) -> None:
    """Refuse a run that would have nothing to do."""
    total = math.ceil(recipe.epochs * state.steps_per_epoch)
    if recipe.max_steps is not None:
        total = min(total, recipe.max_steps)
    per_epoch = state.steps_per_epoch
    if row.state == SUCCEEDED and total <= state.total_steps:
        limit = f" and max_steps above {recipe.max_steps}" if recipe.max_steps is not None else ""
        raise Conflict(
            f"{row.run_id} is finished: its recipe's {state.total_steps} steps are done or were stopped early.",
            next=f"To train longer give more than {state.total_steps / per_epoch:g} epochs{limit} in recipe_changes.",
        )
    if total < state.step:
        raise InvalidArgument(
            f"epochs={recipe.epochs:g}, max_steps={recipe.max_steps} end at step {total}, and {state.step} steps are "
            "done already.",
            next=f"Ask for at least {state.step} steps ({state.step / per_epoch:g} epochs).",
        )
