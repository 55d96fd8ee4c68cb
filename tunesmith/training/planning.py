"""From rows, a base model and a machine to a plan: every hyperparameter, its reason, the memory and the time.

Only the model's config and tokenizer are read, never its weights, and torch is
not imported. What this accepts, the trainer can start; what it cannot do, it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.data.store import DatasetStore
from tunesmith.errors import DoesNotFit, NotSupported
from tunesmith.models.bases import base_config, prompt_format_for, tokenizer_for
from tunesmith.models.catalogue import choose_base
from tunesmith.training import choices as pick
from tunesmith.training import history, memory
from tunesmith.training.batching import epoch_order, packed_sequences, padded_tokens
from tunesmith.training.choices import Choices
from tunesmith.training.examples import Example, SplitRows, refuse_untrained, split_rows, tokenise
from tunesmith.training.hardware import Hardware, check_method, choose_engine, choose_optimizer, find_hardware
from tunesmith.training.recipe import Recipe, RecipeOptions, check_contradictions
from tunesmith.training.records import (
    Alternative,
    AssumedGpu,
    MemoryBreakdown,
    Plan,
    PlannedMemory,
    PlannedRows,
    PlannedTokens,
)
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    from tunesmith.machine.records import MachineReport

AUTO = "auto"
FEW_ROWS, USUAL_ROWS = 50, 500
EVAL_SPEEDUP = 3.0  # a forward pass alone against forward and backward


@dataclass(frozen=True)
class Job:
    """What is to be trained on what, read once."""

    base_model: str
    base_reason: str
    shape: memory.Shape
    hardware: Hardware
    split: SplitRows
    train: list[Example]
    eval: list[Example]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training row, uncut."""
        return [example.tokens_before_cut for example in self.train]


def plan(
    workspace: Workspace,
    dataset_id: str,
    base_model: str = AUTO,
    options: RecipeOptions | None = None,
    *,
    assume_gpu: AssumedGpu | None = None,
    machine: MachineReport | None = None,
) -> Plan:
    """Plan a training run.

    Args:
        base_model: 'auto', 'embedded', a Hub id or a local folder.
        options: what the caller wants; the rest is chosen and the reason given.
        assume_gpu: plan for this card instead of this machine.
        machine: the report of check_gpu; without one, the CPU is planned for.

    Raises:
        InvalidArgument: contradictions, names the model does not have, values beyond it.
        NotSupported, MissingExtra: something asked for by name cannot be done here.
        EmptyInput, BadInput: too few rows, or rows from which nothing would be learned.
        NotFound: no such dataset or model.
    """
    options = options or RecipeOptions()
    check_contradictions(options)
    hardware = find_hardware(machine, assume_gpu, options.memory_budget_gib)
    check_method(options, hardware)
    job = _read(
        workspace,
        dataset_id=dataset_id,
        base_model=base_model,
        options=options,
        hardware=hardware,
    )
    choices = Choices(options)
    choose_all(choices, job)
    breakdown = fit(choices, job)
    refuse_untrained(_cut(job.train + job.eval, choices.values["max_length"]), choices.values["max_length"])
    steps, _ = pick.count_steps(choices.values, _sequences(job, choices.values))
    pick.choose_pace(choices, steps, hardware)
    recipe = Recipe.model_validate(choices.values)
    tokens = _count_tokens(job, recipe, steps)
    planned_memory = _planned_memory(workspace, breakdown, hardware, recipe)
    return Plan(
        dataset_id=dataset_id,
        base_model=job.base_model,
        recipe=recipe,
        reasons={"base_model": job.base_reason, **choices.reasons},
        engine=recipe.engine,
        device=hardware.device,
        rows=PlannedRows(train=len(job.train), eval=len(job.eval), cut=_count_cut(job, recipe.max_length)),
        steps=steps,
        tokens=tokens,
        memory=planned_memory,
        eta_s=_eta(workspace, job, recipe, steps, tokens),
        alternatives=_alternatives(choices, job),
        warnings=_warnings(job, recipe, planned_memory, options),
        assumed_gpu=hardware.assumed,
    )


def start_arguments(planned: Plan) -> dict[str, Any]:
    """The arguments of a `train` run that does what was planned.

    Raises:
        NotSupported: planned for a card this machine does not have.
        DoesNotFit: the prediction exceeds the budget.
    """
    if planned.assumed_gpu:
        raise NotSupported("This plan is for a card that this machine does not have.", next="Plan without assume_gpu.")
    if not planned.memory.fits:
        smaller = [other.change for other in planned.alternatives if other.predicted_peak_gib is not None]
        ways = "; ".join(smaller) or "choose a smaller base model"
        raise DoesNotFit(
            f"The run needs about {planned.memory.predicted_peak_gib:.1f} GiB and {planned.memory.budget_gib:.1f} GiB "
            "may be used.",
            next=f"Free memory, raise memory_budget_gib, or change the recipe: {ways}.",
        )
    return {
        "dataset_id": planned.dataset_id,
        "base_model": planned.base_model,
        # Gigabytes are fetched only for a base that somebody named.
        "download": planned.reasons["base_model"] == pick.AS_ASKED,
        "recipe": planned.recipe.model_dump(mode="json"),
        "plan": planned.model_dump(mode="json"),
    }


def _read(
    workspace: Workspace,
    *,
    dataset_id: str,
    base_model: str,
    options: RecipeOptions,
    hardware: Hardware,
) -> Job:
    store = DatasetStore(workspace)
    dataset = store.get(dataset_id)
    reason = pick.AS_ASKED
    if base_model == AUTO:
        base_model, reason = choose_base(dataset.languages, hardware.budget_gib, hardware.cuda)
    shape = memory.Shape.from_config(base_config(workspace, base_model))
    prompt_format = prompt_format_for(workspace, base_model, options.prompt_format or "chat")
    tokenizer = tokenizer_for(workspace, base_model)
    split = split_rows(
        store.rows(dataset_id),
        eval_fraction=options.eval_fraction or pick.DEFAULTS["eval_fraction"][0],
        seed=options.seed if options.seed is not None else pick.DEFAULTS["seed"][0],
    )
    return Job(
        base_model=base_model,
        base_reason=reason,
        shape=shape,
        hardware=hardware,
        split=split,
        train=tokenise(split.train, prompt_format, tokenizer),
        eval=tokenise(split.eval, prompt_format, tokenizer),
    )


def choose_all(choices: Choices, job: Job) -> None:
    """Everything but method, batch and recomputation, which memory has a say in."""
    engine, why = choose_engine(choices.options, job.hardware)
    choices.values["engine"], choices.reasons["engine"] = engine, why
    optimizer, why = choose_optimizer(choices.options, job.hardware)
    choices.values["optimizer"], choices.reasons["optimizer"] = optimizer, why
    pick.choose_defaults(choices)
    if job.split.by.startswith("the dataset"):
        choices.reasons["eval_fraction"] = "Not used: the dataset is split already."
    elif choices.options.eval_fraction is None:
        choices.reasons["eval_fraction"] += " split_dataset also keeps near-duplicates on one side."
    pick.choose_targets(choices, job.shape)
    pick.choose_packing(choices, job.hardware, engine)
    pick.choose_length(choices, job.lengths, job.shape)
    pick.choose_batch(choices, job.lengths, job.hardware)
    pick.choose_epochs(choices, len(job.train))
    asked = choices.options.gradient_checkpointing
    recompute = "on" if asked == "on" else "off"
    why = pick.AS_ASKED if asked in ("on", "off") else "There is memory enough without recomputing activations."
    choices.values["gradient_checkpointing"], choices.reasons["gradient_checkpointing"] = recompute, why
    choices.choose(
        "method", "lora", "16-bit weights fit, and train faster than 4-bit ones." if job.hardware.cuda else "LoRA."
    )


def fit(choices: Choices, job: Job) -> MemoryBreakdown:
    """Step down, within what the caller left open, until the prediction is within the budget."""
    budget = job.hardware.budget_gib
    breakdown = _predict(choices.values, job)
    while budget is not None and memory.total(breakdown) > budget and _step_down(choices, job):
        breakdown = _predict(choices.values, job)
    return breakdown


def _step_down(choices: Choices, job: Job) -> bool:
    """One step to less memory: 4-bit weights, a smaller micro-batch, recomputation. False when none is left."""
    values, options = choices.values, choices.options
    if options.method is None and values["method"] == "lora" and job.hardware.cuda and job.hardware.bitsandbytes:
        choices.change("method", "qlora", "16-bit weights do not fit the memory there is; 4-bit ones take a quarter.")
        return True
    if options.gradient_checkpointing in (None, "auto") and values["gradient_checkpointing"] == "off":
        choices.change("gradient_checkpointing", "on", "Without recomputing activations it would not fit.")
        return True
    if options.batch_size is None and options.gradient_accumulation is None and values["batch_size"] > 1:
        effective = values["batch_size"] * values["gradient_accumulation"]
        choices.change("batch_size", values["batch_size"] // 2, "A larger one would not fit.")
        choices.change("gradient_accumulation", effective // values["batch_size"], f"Keeps {effective} rows in a step.")
        return True
    return False


def _predict(values: dict[str, Any], job: Job, **changed: Any) -> MemoryBreakdown:
    values = {**values, **changed}
    lengths = [min(length, values["max_length"]) for length in job.lengths]
    return memory.predict(
        job.shape,
        memory.Load(
            device=job.hardware.device,
            method=values["method"],
            engine=values["engine"],
            rank=values["rank"],
            targets=tuple(values["target_modules"]),
            dropout=values["dropout"],
            batch_size=values["batch_size"],
            length=values["max_length"] if values["packing"] else max(lengths),
            recompute=values["gradient_checkpointing"] == "on",
            optimizer=values["optimizer"],
            masked=values["packing"] or (values["batch_size"] > 1 and min(lengths) < max(lengths)),
            packed=values["packing"],
            weight_bytes=2 if job.hardware.cuda else 4,
        ),
    )


def _planned_memory(
    workspace: Workspace, breakdown: MemoryBreakdown, hardware: Hardware, recipe: Recipe
) -> PlannedMemory:
    peak = memory.total(breakdown)
    ratios = [] if hardware.assumed else history.memory_ratios(workspace, engine=recipe.engine, device=hardware.device)
    if len(ratios) >= history.ENOUGH:
        low, high = min(*ratios, 1.0) * 0.95, max(*ratios, 1.0) * 1.05
        calibration = f"{len(ratios)} measured runs in this workspace"
    else:
        low, high = memory.UNCALIBRATED if hardware.cuda else memory.UNCALIBRATED_CPU
        calibration = "uncalibrated: a count of bytes, not yet checked against runs on this machine"
    budget = hardware.budget_gib
    return PlannedMemory(
        predicted_peak_gib=round(peak, 2),
        low_gib=round(peak * low, 2),
        high_gib=round(peak * high, 2),
        budget_gib=budget,
        fits=budget is None or peak <= budget,
        breakdown=breakdown,
        calibration=calibration,
    )


def _cut(examples: Sequence[Example], max_length: int) -> list[Example]:
    return [
        replace(example, input_ids=example.input_ids[:max_length], labels=example.labels[:max_length])
        for example in examples
    ]


def _count_cut(job: Job, max_length: int) -> int:
    return sum(example.tokens_before_cut > max_length for example in (*job.train, *job.eval))


def _sequences(job: Job, values: dict[str, Any]) -> int:
    if values["packing"]:
        return packed_sequences(job.lengths, values["max_length"])
    return len(job.train)


def _count_tokens(job: Job, recipe: Recipe, steps: int) -> PlannedTokens:
    """Exactly what the trainer will see: the same order, batch by batch."""
    lengths = [min(length, recipe.max_length) for length in job.lengths]
    if recipe.packing:
        _, per_epoch = pick.count_steps(recipe.model_dump(), packed_sequences(lengths, recipe.max_length))
        real = round(sum(lengths) * steps / per_epoch)
        return PlannedTokens(total=real, real=real, padding_share=0.0)  # packed batches are flattened: no padding
    total = real = done = epoch = 0
    while done < steps:
        order = epoch_order(lengths, recipe.effective_batch, seed=recipe.seed, epoch=epoch)
        order = order[: (steps - done) * recipe.effective_batch]
        total += padded_tokens(lengths, order, recipe.batch_size)
        real += sum(lengths[index] for index in order)
        done += pick.steps_in_epoch(len(order), recipe.effective_batch)
        epoch += 1
    return PlannedTokens(total=total, real=real, padding_share=round(1 - real / total, 4))


def _eta(workspace: Workspace, job: Job, recipe: Recipe, steps: int, tokens: PlannedTokens) -> float | None:
    if job.hardware.assumed:
        return None
    measured = history.speed(
        workspace, base_model=job.base_model, engine=recipe.engine, device=job.hardware.device, method=recipe.method
    )
    if measured is None:
        return None
    looks = 2 + steps // recipe.eval_steps
    held_out = sum(min(example.tokens_before_cut, recipe.max_length) for example in job.eval)
    return round((tokens.real + looks * held_out / EVAL_SPEEDUP) / measured, 1)


def _alternatives(choices: Choices, job: Job) -> list[Alternative]:
    values = choices.values
    found = []

    def offer(change: str, cost: str, **changed: Any) -> None:
        peak = memory.total(_predict(values, job, **changed))
        found.append(Alternative(change=change, predicted_peak_gib=round(peak, 2), cost=cost))

    if values["batch_size"] > 1:
        half = values["batch_size"] // 2
        offer(
            f"batch_size {half}, gradient_accumulation {values['gradient_accumulation'] * 2}",
            "Less memory at the same result; slower on a GPU.",
            batch_size=half,
        )
    if values["gradient_checkpointing"] == "off":
        offer("gradient_checkpointing on", "Less memory for about a third more time.", gradient_checkpointing="on")
    if values["method"] == "lora" and job.hardware.bitsandbytes:
        offer(
            "method qlora", "4-bit weights: a quarter of their memory, a little slower and less exact.", method="qlora"
        )
    attention = [name for name in values["target_modules"] if name in ("q_proj", "v_proj", "qkv_proj")]
    if attention and len(attention) < len(values["target_modules"]):
        offer(
            f"target_modules {attention}",
            "A smaller adapter, faster; learns less from the same rows.",
            target_modules=attention,
        )
    return found


def _warnings(job: Job, recipe: Recipe, planned: PlannedMemory, options: RecipeOptions) -> list[str]:
    warnings = list(job.hardware.notes)
    cut = _count_cut(job, recipe.max_length)
    if cut:
        warnings.append(
            f"{cut} of {len(job.train) + len(job.eval)} rows are longer than max_length={recipe.max_length} and lose "
            "their end; a cut answer teaches the model not to finish."
        )
    if not planned.fits:
        warnings.append(
            f"It does not fit: about {planned.predicted_peak_gib:.1f} GiB needed, "
            f"{planned.budget_gib:.1f} GiB may be used."
        )
    elif planned.budget_gib is not None and planned.high_gib > planned.budget_gib:
        warnings.append(
            f"It may not fit: up to {planned.high_gib:.1f} GiB needed, {planned.budget_gib:.1f} GiB may be used."
        )
    if len(job.train) < FEW_ROWS:
        warnings.append(f"{len(job.train)} rows teach a tone, hardly facts; {USUAL_ROWS} or more are usual.")
    if options.eval_fraction is not None and job.split.by.startswith("the dataset"):
        warnings.append(f"eval_fraction is not used: the dataset is split already ({len(job.eval)} rows held out).")
    if not job.hardware.cuda:
        warnings.append("Training on the CPU: fine for models of a few hundred million parameters, slow above.")
    return warnings
