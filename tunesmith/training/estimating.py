"""Memory with its interval, and time: what the plan counts, set against what finished runs measured."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.training import history, memory
from tunesmith.training.counting import cut
from tunesmith.training.hardware import Hardware
from tunesmith.training.job import Job
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import MemoryBreakdown, PlannedMemory, PlannedTokens
from tunesmith.workspace import Workspace

EVAL_SPEEDUP = 3.0  # a forward pass alone against forward and backward


@dataclass(frozen=True)
class Time:
    """Seconds from start to end, with an interval; None where nothing like it was measured. And why."""

    seconds: float | None
    low: float | None
    high: float | None
    why: str


def planned_memory(
    workspace: Workspace, breakdown: MemoryBreakdown, hardware: Hardware, recipe: Recipe
) -> PlannedMemory:
    """The predicted peak with the interval that the errors of finished runs give it."""
    peak = memory.total(breakdown)
    low, high = memory.UNCALIBRATED if hardware.cuda else memory.UNCALIBRATED_CPU
    calibration = "uncalibrated: a count of bytes, not yet checked against runs on this machine"
    if hardware.cuda:
        calibration += " (within 10 % of 26 runs on an H100)"
    if not hardware.assumed:
        ratios = history.memory_ratios(
            workspace, engine=recipe.engine, device=hardware.device, method=recipe.method, packing=recipe.packing
        )
        if len(ratios.values) >= history.ENOUGH:
            low, high = history.interval([*ratios.values, 1.0], history.MEMORY_MARGIN)
            calibration = ratios.source
        elif ratios.values:
            low, high = min(*ratios.values, low), max(*ratios.values, high)
            calibration = f"nearly uncalibrated: {ratios.source}, and {history.ENOUGH} are wanted"
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


def eta(workspace: Workspace, job: Job, recipe: Recipe, steps: int, tokens: PlannedTokens) -> Time:
    """How long the run should take, from the speed of finished runs like it."""
    if job.hardware.assumed:
        return Time(None, None, None, "Not known: nothing was measured on a card that this machine does not have.")
    speed = history.speed(
        workspace,
        base_model=job.base_model,
        parameters=job.shape.parameters,
        engine=recipe.engine,
        device=job.hardware.device,
        device_name=job.hardware.name,
        method=history.method_of(recipe.method, job.objective),
        packing=recipe.packing,
    )
    if speed is None:
        return Time(
            None,
            None,
            None,
            "Not known: no run was measured on this device yet. The first steps of the run measure it: get_run shows "
            "progress.eta_s from then on, and the next plan will know.",
        )
    looks = 1 + steps // recipe.eval_steps  # the one before the first step is part of the start-up
    held_out = sum(len(answer.input_ids) for example in cut(job.eval, recipe.max_length) for answer in example.answers)
    work = tokens.real + looks * held_out / EVAL_SPEEDUP

    together = recipe.processes if job.hardware.cuda else 1  # what is measured is the speed of one card

    def seconds(tokens_per_s: float) -> float:
        return round(speed.startup_s + work / (tokens_per_s * together), 1)

    why = f"{speed.tokens_per_s:.0f} tokens/s, from {speed.source}; start-up and looks at held-out rows included."
    return Time(seconds(speed.tokens_per_s), seconds(speed.high), seconds(speed.low), why)
