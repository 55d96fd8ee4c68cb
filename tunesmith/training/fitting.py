"""Every value of a recipe for a job: as chosen, then down step by step until it fits the memory there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.training import choices as pick
from tunesmith.training import memory
from tunesmith.training.choices import Choices
from tunesmith.training.hardware import choose_engine, choose_optimizer
from tunesmith.training.job import Job
from tunesmith.training.kernels import worth_compiling
from tunesmith.training.objectives import SEQUENCES, choose_for_preference, engine_for_preference
from tunesmith.training.recipe import RecipeOptions
from tunesmith.training.records import MemoryBreakdown
from tunesmith.training.sharing import choose_processes

ROOM = 1.08  # the largest error seen of a prediction for a card was 8 %


def resolve(options: RecipeOptions, job: Job) -> tuple[Choices, MemoryBreakdown]:
    """The values that memory has a say in, and all before them, with the memory they need.

    Raises: as `planning.plan`.
    """
    choices = Choices(options)
    choose_all(choices, job)
    return choices, fit(choices, job)


def choose_all(choices: Choices, job: Job) -> None:
    """Everything but method, batch and recomputation, which memory has a say in."""
    engine, why = choose_engine(choices.options, job.hardware, joins=job.joins)
    if job.objective == "dpo":
        engine, why = engine_for_preference(choices.options)
    choices.values["engine"], choices.reasons["engine"] = engine, why
    optimizer, why = choose_optimizer(choices.options, job.hardware)
    choices.values["optimizer"], choices.reasons["optimizer"] = optimizer, why
    pick.choose_defaults(choices)
    if job.split.by.startswith("the dataset"):
        choices.reasons["eval_fraction"] = "Not used: the dataset is split already."
    elif choices.options.eval_fraction is None:
        choices.reasons["eval_fraction"] += " split_dataset also keeps near-duplicates on one side."
    pick.choose_targets(choices, job.shape)
    pick.choose_packing(choices, job.hardware, joins=job.joins)
    pick.choose_length(choices, job.lengths, job.shape)
    choose_processes(choices, job.hardware)
    pick.choose_batch(choices, job.lengths, job.hardware)
    pick.choose_epochs(choices, len(job.train))
    if job.objective == "dpo":
        choose_for_preference(choices, job.hardware, longest=max(job.lengths), rows=len(job.train))
    asked = choices.options.gradient_checkpointing
    recompute = "on" if asked == "on" else "off"
    why = pick.AS_ASKED if asked in ("on", "off") else "There is memory enough without recomputing activations."
    choices.values["gradient_checkpointing"], choices.reasons["gradient_checkpointing"] = recompute, why
    choices.choose(
        "method",
        "lora",
        "16-bit weights fit, and train faster than 4-bit ones."
        if job.hardware.cuda
        else "A small adapter beside the frozen weights; 4-bit weights need an NVIDIA GPU.",
    )


def fit(choices: Choices, job: Job) -> MemoryBreakdown:
    """Step down, within what the caller left open, until the prediction is within the budget with some room."""
    budget = job.hardware.budget_gib
    breakdown = predict(choices.values, job)
    if budget is None:
        return breakdown
    while memory.total(breakdown) * ROOM > budget and _step_down(choices, job):
        breakdown = predict(choices.values, job)
    while memory.total(breakdown) > budget and _shorten(choices, job):
        breakdown = predict(choices.values, job)
        while memory.total(breakdown) > budget and _step_down(choices, job):
            breakdown = predict(choices.values, job)
    return breakdown


def _step_down(choices: Choices, job: Job) -> bool:
    """One step to less memory that costs time or exactness, and no data. False when none is left."""
    values, options, hardware = choices.values, choices.options, job.hardware
    four_bits = hardware.cuda and hardware.bitsandbytes
    if options.optimizer is None and values["optimizer"] == "adamw_torch" and four_bits:
        choices.change("optimizer", "adamw_8bit", "A quarter of the optimizer memory at the same result.")
        return True
    halves = options.batch_size is None and options.gradient_accumulation is None and values["batch_size"] > 1
    large = hardware.cuda and values["batch_size"] * values["max_length"] > pick.GOOD_TOKENS_CUDA
    if not (halves and large) and _give_up_speed(choices, job):
        return True
    if halves:
        effective = values["batch_size"] * values["gradient_accumulation"]
        choices.change("batch_size", values["batch_size"] // 2, "A larger one would not fit.")
        rows = effective * values["processes"]
        choices.change("gradient_accumulation", effective // values["batch_size"], f"Keeps {rows} rows in a step.")
        return True
    return False


def _give_up_speed(choices: Choices, job: Job) -> bool:
    """Recomputation, then 4-bit weights, then the engine that keeps least. False when none is left."""
    values, options, hardware = choices.values, choices.options, job.hardware
    if options.gradient_checkpointing in (None, "auto") and values["gradient_checkpointing"] == "off":
        choices.change("gradient_checkpointing", "on", "Without recomputing activations it would not fit.")
        return True
    if options.method is None and values["method"] == "lora" and hardware.cuda and hardware.bitsandbytes:
        choices.change("method", "qlora", "16-bit weights do not fit with room to spare; 4-bit ones take a quarter.")
        return True
    adapter = values["method"] != "full" and job.objective == "sft"
    if options.engine in (None, "auto") and values["engine"] == "transformers" and hardware.unsloth and adapter:
        choices.change("engine", "unsloth", "Keeps least in memory, at some cost of time.")
        return True
    return False


def _shorten(choices: Choices, job: Job) -> bool:
    """Pack less into a sequence: the longest row and no more. False when that is so already, or asked otherwise."""
    longest = pick.rounded_length(max(job.lengths))
    if choices.options.max_length is not None or choices.values["max_length"] <= longest:
        return False
    choices.change("max_length", longest, "Just the longest row, so that none is cut: longer would not fit.")
    pick.choose_batch(choices, job.lengths, job.hardware)
    return True


def _is_long(values: dict[str, Any], lengths: Sequence[int]) -> bool:
    """Whether the run has passes enough for its blocks to be compiled. Packed sequences are taken to be full."""
    steps, _ = pick.count_steps(values, -(-sum(lengths) // values["max_length"]))
    return worth_compiling(steps, values["gradient_accumulation"])


def predict(values: dict[str, Any], job: Job, **changed: Any) -> MemoryBreakdown:
    """The peak memory of resolved values, with some of them changed."""
    values = {**values, **changed}
    if values["method"] != "full" and values["rank"] is None:  # an adapter instead of every weight: the usual one
        values |= {name: pick.DEFAULTS[name][0] for name in ("rank", "dropout")}
        values["target_modules"] = list(job.shape.modules)
    lengths = [min(length, values["max_length"]) for length in job.lengths]
    joined = values["packing"] and job.joins and values["engine"] == "transformers"
    return memory.predict(
        job.shape,
        memory.Load(
            device=job.hardware.device,
            method=values["method"],
            engine=values["engine"],
            rank=values["rank"] or 0,
            targets=tuple(values["target_modules"] or ()),
            dropout=values["dropout"] or 0.0,
            batch_size=values["batch_size"] * SEQUENCES[job.objective],
            length=values["max_length"] if values["packing"] else max(lengths),
            recompute=values["gradient_checkpointing"] == "on",
            optimizer=values["optimizer"],
            masked=not joined
            and (
                values["packing"]
                or job.objective == "dpo"
                or (values["batch_size"] > 1 and min(lengths) < max(lengths))
            ),
            compiled=joined and job.hardware.cuda and _is_long(values, lengths),
            packed=values["packing"],
            weight_bytes=2 if job.hardware.cuda else 4,
            pairs=job.objective == "dpo",
            accumulates=values["gradient_accumulation"] > 1,
        ),
    )
