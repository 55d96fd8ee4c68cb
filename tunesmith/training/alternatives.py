"""Other ways to train the same rows, each with its predicted memory and its cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunesmith.models.catalogue import KnownBase
from tunesmith.training import choices as pick
from tunesmith.training import memory
from tunesmith.training.base_choice import licence_note, smaller_bases
from tunesmith.training.choices import Choices
from tunesmith.training.fitting import predict, resolve
from tunesmith.training.hardware import joins_rows
from tunesmith.training.job import Job
from tunesmith.training.records import Alternative, PlannedMemory
from tunesmith.training.sharing import TRANSFER_GIB, worth_offering

SMALL_RANK = 8
MAX_ACCUMULATION = 4096  # what a recipe may say
ATTENTION = ("q_proj", "v_proj", "qkv_proj")


def alternatives(choices: Choices, job: Job, planned: PlannedMemory) -> list[Alternative]:
    """What would need less memory, or be worth a thought. Where the plan does not fit, those that do come first.

    Every figure is a prediction of the changed recipe, so what is said to fit would be planned and started.
    """
    values, budget = choices.values, planned.budget_gib
    steps = _steps(values, job, budget, tight=budget is not None and planned.high_gib > budget)
    found = [_offer(values, job, budget, changed, cost) for changed, cost in steps]
    if not planned.fits:
        smallest: dict[str, Any] = {}
        for changed, _ in steps:
            smallest |= changed
        if smallest not in [changed for changed, _ in steps] and not any(other.fits for other in found):
            found.append(_offer(values, job, budget, smallest, "All of these together."))
        found.sort(key=lambda other: not other.fits)
    if budget is not None and planned.high_gib > budget:
        known, size = job.known, job.known.parameters_b if job.known else job.shape.parameters / 1e9
        found += [
            _other_base(choices, job, base)
            for base in smaller_bases(known, size, job.hardware, job.languages or {}, choices.options.method)
        ]
    if job.objective == "sft" and (count := worth_offering(choices, job.hardware)) > 1:
        found.append(_several_processes(choices, job, budget, count))
    return found


def _steps(values: dict[str, Any], job: Job, budget: float | None, *, tight: bool) -> list[tuple[dict[str, Any], str]]:
    """(what to change, what that costs), the least harmful first."""
    steps: list[tuple[dict[str, Any], str]] = []
    batch, rank, targets = values["batch_size"], values["rank"], values["target_modules"]
    if batch > 1:
        smaller = batch // 2
        while budget is not None and smaller > 1 and _peak(values, job, batch_size=smaller) > budget:
            smaller //= 2
        accumulation = min(MAX_ACCUMULATION, batch * values["gradient_accumulation"] // smaller)
        halved = {"batch_size": smaller, "gradient_accumulation": accumulation}
        steps.append((halved, "Less memory at the same result; slower on a GPU."))
    if values["gradient_checkpointing"] == "off":
        steps.append(({"gradient_checkpointing": "on"}, "Less memory for about a third more time."))
    if values["method"] == "full":
        full_to_lora = "An adapter instead of every weight: far less memory, and the base forgets less."
        steps.append(({"method": "lora"}, full_to_lora))
        if job.hardware.bitsandbytes:
            steps.append(({"method": "qlora"}, "An adapter on 4-bit weights: the least memory."))
        return steps  # what follows speaks of adapters
    if values["method"] == "lora" and job.hardware.bitsandbytes:
        steps.append(({"method": "qlora"}, "4-bit weights: a quarter of their memory, a little slower and less exact."))
    longest = pick.rounded_length(max(job.lengths))
    if values["packing"] and values["max_length"] > longest and tight:
        steps.append(({"max_length": longest}, "No row is cut, but fewer share a sequence: slower."))
    if rank > SMALL_RANK and tight:  # it saves little
        steps.append(({"rank": SMALL_RANK}, "A smaller adapter: enough for a few hundred rows."))
    attention = [name for name in targets if name in ATTENTION]
    if attention and len(attention) < len(targets):
        steps.append(({"target_modules": attention}, "A smaller adapter, faster; learns less from the same rows."))
    return steps


def _offer(values: dict[str, Any], job: Job, budget: float | None, changed: dict[str, Any], cost: str) -> Alternative:
    peak = _peak(values, job, **changed)
    return Alternative(
        change=", ".join(f"{name}={value!r}" for name, value in changed.items()).replace("'", '"'),
        predicted_peak_gib=peak,
        cost=cost,
        fits=budget is None or peak <= budget,
        recipe=changed,
    )


def _several_processes(choices: Choices, job: Job, budget: float | None, count: int) -> Alternative:
    _, breakdown = resolve(choices.options.model_copy(update={"processes": count}), job)
    peak = round(memory.total(breakdown), 2)
    return Alternative(
        change=f"processes={count}",
        predicted_peak_gib=peak,
        cost=f"{count} cards alike make the same steps together, in up to {count} times less time; each needs this "
        "much, and none is free for other runs meanwhile.",
        fits=budget is None or peak <= budget - TRANSFER_GIB,
        recipe={"processes": count},
    )


def _peak(values: dict[str, Any], job: Job, **changed: Any) -> float:
    return round(memory.total(predict(values, job, **changed)), 2)


def _other_base(choices: Choices, job: Job, base: KnownBase) -> Alternative:
    """The same rows and wishes with another base, its recipe resolved anew."""
    shape = memory.Shape.from_config(base.config())
    options = choices.options.model_copy(update={"target_modules": None, "max_length": None})
    smaller = replace(
        job,
        base_model=base.model_id,
        known=base,
        shape=shape,
        joins=job.objective == "sft" and joins_rows(base.config(), job.hardware),
    )
    resolved, breakdown = resolve(options, smaller)
    peak, budget = round(memory.total(breakdown), 2), job.hardware.budget_gib
    return Alternative(
        change=f'base_model="{base.model_id}"',
        predicted_peak_gib=peak,
        cost=f"{base.parameters_b:.2g}B weights by {resolved.values['method']}: leaves room, trains faster, knows less "
        f"from the start.{licence_note(base)}",
        fits=budget is None or peak <= budget,
        recipe={},
        base_model=base.model_id,
    )
