"""From rows, a base model and a machine to a plan: every hyperparameter, its reason, the memory and the time.

Only the model's config and tokenizer are read, never its weights, and torch is
not imported. What this accepts, the trainer can start; what it cannot do, it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.errors import DoesNotFit, NotFound, NotSupported
from tunesmith.training import choices as pick
from tunesmith.training.alternatives import alternatives
from tunesmith.training.counting import count_cut, count_tokens, cut, sequences
from tunesmith.training.disk_room import check_disk, no_room, planned_disk
from tunesmith.training.estimating import eta, planned_memory
from tunesmith.training.examples import refuse_untrained
from tunesmith.training.fitting import resolve
from tunesmith.training.hardware import check_method, find_hardware
from tunesmith.training.job import AUTO, Job, read_job
from tunesmith.training.objectives import REASONS
from tunesmith.training.recipe import Recipe, RecipeOptions, check_contradictions
from tunesmith.training.records import AssumedGpu, Plan, PlannedMemory, PlannedRows
from tunesmith.training.sharing import for_one_process
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    from tunesmith.machine.records import MachineReport

FEW_ROWS, USUAL_ROWS = 50, 500
FEW_STEPS = 10


def plan(
    workspace: Workspace,
    dataset_id: str,
    base_model: str = AUTO,
    options: RecipeOptions | None = None,
    *,
    assume_gpu: AssumedGpu | None = None,
    machine: MachineReport | None = None,
    estimate: bool = False,
) -> Plan:
    """Plan a training run.

    Args:
        base_model: 'auto', 'embedded', a Hub id or a local folder.
        options: what the caller wants; the rest is chosen and the reason given.
        assume_gpu: plan for this card instead of this machine.
        machine: the report of check_gpu; without one, the CPU is planned for.
        estimate: for a look alone: where the tokenizer of a known base cannot be had, estimate the tokens.

    Raises:
        InvalidArgument: contradictions, names the model does not have, values beyond it.
        NotSupported, MissingExtra: something asked for by name cannot be done here.
        EmptyInput, BadInput: too few rows, or rows from which nothing would be learned.
        NotFound: no such dataset or model.
        Unreachable, ServiceFailed: the Hub was needed and did not answer.
    """
    options = options or RecipeOptions()
    check_contradictions(options)
    hardware = for_one_process(find_hardware(machine, assume_gpu, options.memory_budget_gib), options)
    check_method(options, hardware)
    job = read_job(
        workspace,
        dataset_id=dataset_id,
        base_model=base_model,
        options=options,
        hardware=hardware,
        estimate=estimate,
    )
    choices, breakdown = resolve(options, job)
    refuse_untrained(cut(job.train + job.eval, choices.values["max_length"]), choices.values["max_length"])
    steps, _ = pick.count_steps(choices.values, sequences(job, choices.values))
    pick.choose_pace(choices, steps, hardware)
    recipe = Recipe.model_validate(choices.values)
    tokens = count_tokens(job, recipe, steps)
    time = eta(workspace, job, recipe, steps, tokens)
    needed = planned_memory(workspace, breakdown, hardware, recipe)
    others = alternatives(choices, job, needed)
    disk = planned_disk(workspace, job.shape, recipe)
    return Plan(
        dataset_id=dataset_id,
        base_model=job.base_model,
        base=job.base,
        recipe=recipe,
        objective=job.objective,
        reasons={
            "base_model": job.base_reason,
            "objective": REASONS[job.objective],
            **choices.reasons,
            "eta_s": time.why,
        },
        engine=recipe.engine,
        device=hardware.device,
        rows=PlannedRows(train=len(job.train), eval=len(job.eval), cut=count_cut(job, recipe.max_length)),
        steps=steps,
        tokens=tokens,
        memory=needed,
        disk=disk,
        eta_s=time.seconds,
        eta_low_s=time.low,
        eta_high_s=time.high,
        alternatives=others,
        warnings=_warnings(job, recipe, steps, needed, options, ways=sum(other.fits for other in others))
        + ([] if disk.fits else [no_room(disk, recipe)]),
        assumed_gpu=hardware.assumed,
    )


def start_arguments(planned: Plan) -> dict[str, Any]:
    """The arguments of a `train` run that does what was planned.

    Raises:
        NotSupported: planned for a card this machine does not have, or from estimated token counts.
        NotFound: the planner chose a base that is not here, and gigabytes are fetched only for one that was named.
        DoesNotFit: the prediction exceeds the budget.
        DiskFull: its checkpoints have no room.
    """
    if planned.assumed_gpu:
        raise NotSupported("This plan is for a card that this machine does not have.", next="Plan without assume_gpu.")
    if planned.tokens.estimated:
        raise NotSupported(
            "This plan rests on estimated token counts.", next="Plan again where the base's tokenizer can be read."
        )
    if not planned.memory.fits:
        raise _does_not_fit(planned)
    check_disk(planned.disk, planned.recipe)
    if not planned.base.here and not planned.base.named:
        raise NotFound(
            f"The planner chose {planned.base_model}, whose weights ({planned.base.download_gb:g} GB) are not on this "
            "machine; so much is fetched only for a base that you name.",
            next=f'Call start_training(dataset_id="{planned.dataset_id}", base_model="{planned.base_model}"), which '
            'fetches them, or use base_model="embedded".',
        )
    return {
        "dataset_id": planned.dataset_id,
        "base_model": planned.base_model,
        "download": planned.base.named,
        "recipe": planned.recipe.model_dump(mode="json"),
        "plan": planned.model_dump(mode="json"),
    }


def _does_not_fit(planned: Plan) -> DoesNotFit:
    memory = planned.memory
    ways = [f"{other.change} ({other.predicted_peak_gib:.1f} GiB)" for other in planned.alternatives if other.fits]
    free = "Raise memory_budget_gib" if planned.recipe.memory_budget_gib else "Free memory"
    return DoesNotFit(
        f"The run needs about {memory.predicted_peak_gib:.1f} GiB and {memory.budget_gib:.1f} GiB may be used.",
        next=f"{free}, or use {' or '.join(ways)}." if ways else f"{free}: nothing smaller that is known would fit.",
    )


def _warnings(
    job: Job, recipe: Recipe, steps: int, planned: PlannedMemory, options: RecipeOptions, *, ways: int
) -> list[str]:
    warnings = [*job.hardware.notes, *([job.note] if job.note else [])]
    cut_rows = count_cut(job, recipe.max_length)
    if cut_rows:
        warnings.append(
            f"{cut_rows} of {len(job.train) + len(job.eval)} rows are longer than max_length={recipe.max_length} and "
            "lose their end; a cut answer teaches the model not to finish."
        )
    if not planned.fits:
        warnings.append(
            f"It does not fit: about {planned.predicted_peak_gib:.1f} GiB needed, "
            f"{planned.budget_gib:.1f} GiB may be used. "
            + ("The alternatives with fits=true would." if ways else "Nothing smaller that is known would.")
        )
    elif planned.budget_gib is not None and planned.high_gib > planned.budget_gib:
        warnings.append(
            f"It is tight: {planned.predicted_peak_gib:.1f} GiB expected, up to {planned.high_gib:.1f} possible, and "
            f"{planned.budget_gib:.1f} GiB may be used. The alternatives say what would leave room."
        )
    there = sequences(job, recipe.model_dump())
    if recipe.effective_batch > there:
        what = "packed sequences" if recipe.packing else "rows"
        warnings.append(
            f"One step takes {recipe.effective_batch} {what} and there are {there}: every step is a whole pass."
        )
    if steps < FEW_STEPS:
        warnings.append(f"The run ends after {steps} step{'s' * (steps > 1)}: too few to learn much.")
    for name, what in (("eval_steps", "the held-out rows are looked at"), ("save_steps", "a checkpoint is saved")):
        if getattr(recipe, name) > steps:
            warnings.append(
                f"{name}={getattr(recipe, name)} is more than the run has ({steps}): {what} once, at the end."
            )
    if len(job.train) < FEW_ROWS:
        warnings.append(f"{len(job.train)} rows teach a tone, hardly facts; {USUAL_ROWS} or more are usual.")
    if options.eval_fraction is not None and job.split.by.startswith("the dataset"):
        warnings.append(f"eval_fraction is not used: the dataset is split already ({len(job.eval)} rows held out).")
    if not job.hardware.cuda:
        warnings.append("Training on the CPU: fine for models of a few hundred million parameters, slow above.")
    return warnings
