"""The values the planner chooses when the caller leaves them out, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import InvalidArgument
from tunesmith.training.batching import packed_sequences, steps_in_epoch
from tunesmith.training.hardware import AS_ASKED, Hardware
from tunesmith.training.memory import Shape
from tunesmith.training.recipe import ADAPTER_FIELDS, RecipeOptions

NO_ADAPTER = "Every weight is trained: there is no adapter."
# Rows → epochs: few rows need many passes, many need few. The last number is the one chosen.
EPOCHS: tuple[tuple[int, str, int], ...] = (
    (200, "5–8", 6),
    (500, "3–5", 4),
    (2000, "2–3", 3),
    (10**9, "1–2", 2),
)
EFFECTIVE_BATCH_SMALL, EFFECTIVE_BATCH_LARGE = 8, 16
LARGE_DATASET = 2000
MICRO_TOKENS_CPU, MICRO_TOKENS_CUDA = 2048, 8192  # tokens in one forward pass worth having: more is no faster
GOOD_TOKENS_CUDA = 2048  # with fewer a card waits to be told what to do
PACKED_LENGTH = 2048  # at most, unless a row is longer
DEFAULTS: dict[str, tuple[Any, str]] = {
    "rank": (16, "Enough for a few thousand rows."),
    "alpha": (32, "Twice the rank, as usual."),
    "dropout": (0.0, "Fastest; early stopping and few epochs guard against learning by heart."),
    "learning_rate": (2e-4, "The usual rate for LoRA."),
    "scheduler": ("cosine", "Falls smoothly to zero."),
    "weight_decay": (0.01, "The usual value for LoRA."),
    "max_grad_norm": (0.3, "Keeps one odd batch from undoing the others."),
    "eval_fraction": (0.1, "A tenth of the rows tells enough."),
    "prompt_format": ("chat", "The model's own template, so that it is asked as it was taught."),
    "seed": (42, "Any number; the same one gives the same run."),
    "on_out_of_memory": ("recover", "Goes on from the newest checkpoint with a smaller batch."),
}

# Where every weight is trained. The rest is as above.
DEFAULTS_FULL: dict[str, tuple[Any, str]] = {
    "learning_rate": (2e-5, "A tenth of LoRA's: every weight moves, and a longer step unlearns what the base knows."),
    "weight_decay": (0.01, "Light: in a short run it hardly shows."),
    "max_grad_norm": (1.0, "The usual value over all weights, whose gradient is longer than an adapter's."),
}


@dataclass
class Choices:
    """Values and reasons, gathered field by field."""

    options: RecipeOptions
    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def choose(self, name: str, value: Any, why: str) -> Any:
        """Take what the caller gave for `name`, else `value` for that reason."""
        given = getattr(self.options, name)
        self.values[name] = value if given is None else given
        self.reasons[name] = why if given is None else AS_ASKED
        return self.values[name]

    def change(self, name: str, value: Any, why: str) -> None:
        """Replace a value that the planner chose itself."""
        self.values[name] = value
        self.reasons[name] = why


def choose_defaults(choices: Choices) -> None:
    """The fields whose value depends on nothing else."""
    full = choices.options.method == "full"
    for name, (value, why) in {**DEFAULTS, **(DEFAULTS_FULL if full else {})}.items():
        choices.choose(name, value, why)
    for name in ADAPTER_FIELDS if full else ():
        choices.change(name, None, NO_ADAPTER)
    if choices.options.rank is not None and choices.options.alpha is None:
        choices.change("alpha", min(2048, 2 * choices.options.rank), "Twice the rank, as usual.")
    choices.values["max_steps"] = choices.options.max_steps
    if choices.options.max_steps is not None:
        choices.reasons["max_steps"] = AS_ASKED
    choices.values["memory_budget_gib"] = choices.options.memory_budget_gib


def choose_targets(choices: Choices, shape: Shape) -> None:
    """The layers that get an adapter; none where every weight is trained.

    Raises:
        InvalidArgument: a name this model does not have, with the names it has.
    """
    if choices.options.method == "full":
        return
    known = list(shape.modules)
    wrong = [name for name in choices.options.target_modules or () if name not in known]
    if wrong:
        raise InvalidArgument(
            f"target_modules: this model has no adaptable layer {', '.join(map(repr, wrong[:5]))}.",
            next=f"Choose from {', '.join(known)}.",
        )
    choices.choose("target_modules", known, "All linear layers: learns most for its memory.")


def choose_packing(choices: Choices, hardware: Hardware, *, joins: bool) -> None:
    """Whether several rows share a sequence."""
    if hardware.cuda and (choices.values["engine"] == "unsloth" or joins):
        choices.choose("packing", True, "Leaves no padding; several times faster with short rows.")
    else:
        why = "Rows of like length are batched instead" + ("." if hardware.cuda else ", which is faster on a CPU.")
        choices.choose("packing", False, why)


def rounded_length(longest: int) -> int:
    """Tokens of the longest row, up to the next multiple of 32."""
    return max(32, math.ceil(longest / 32) * 32)


def choose_length(choices: Choices, lengths: Sequence[int], shape: Shape) -> None:
    """The longest row allowed.

    Raises:
        InvalidArgument: longer than the model's context.
    """
    longest = max(lengths)
    if choices.options.max_length is not None and choices.options.max_length > shape.context:
        raise InvalidArgument(
            f"max_length={choices.options.max_length} is beyond the model's context of {shape.context} tokens.",
            next=f"Use at most {shape.context}; the longest row has {longest} tokens.",
        )
    rounded = rounded_length(longest)
    if choices.values["packing"]:
        rows = rows_in_a_step(len(lengths)) // (choices.options.processes or 1)
        wanted = rounded_length(math.ceil(max(1, rows) * sum(lengths) / len(lengths)))
        rounded = max(min(PACKED_LENGTH, wanted), rounded)
        # A longer sequence of short rows would be faster and learn less: fewer, larger steps.
        why = f"About the rows that a step takes in one sequence; the longest row has {longest} tokens."
    else:
        why = f"The longest row has {longest} tokens, so none is cut."
    if rounded > shape.context:
        rounded = shape.context
        if longest > rounded:
            why = f"The model's context; the longest row has {longest} tokens."
    choices.choose("max_length", rounded, why)


def rows_in_a_step(rows: int) -> int:
    """The usual effective batch for so many rows."""
    return EFFECTIVE_BATCH_SMALL if rows < LARGE_DATASET else EFFECTIVE_BATCH_LARGE


def choose_batch(choices: Choices, lengths: Sequence[int], hardware: Hardware) -> None:
    """Micro-batch and accumulation: the effective batch from the rows, the micro-batch from their tokens."""
    packing, max_length = choices.values["packing"], choices.values["max_length"]
    effective = rows_in_a_step(len(lengths))
    why = f"{effective} rows in a step for {len(lengths)} rows"
    longest = min(max_length, max(lengths))
    if packing:
        rows_a_sequence = len(lengths) / packed_sequences(lengths, max_length)
        effective = _power_of_two(max(1.0, effective / rows_a_sequence))
        why = f"A packed sequence holds about {rows_a_sequence:.0f} rows"
        longest = max_length
    given_batch, given_accumulation = choices.options.batch_size, choices.options.gradient_accumulation
    limit = MICRO_TOKENS_CUDA if hardware.cuda else MICRO_TOKENS_CPU
    processes = choices.values["processes"]
    one = effective / processes  # rows in a step for one process
    batch = _power_of_two(max(1.0, min(one, limit / longest)))
    if given_batch is None and given_accumulation is not None:
        batch = min(batch, _power_of_two(max(1.0, one / given_accumulation)))
    batch = choices.choose("batch_size", batch, f"{why}; up to {limit} tokens in one pass.")
    at_a_time = f"{batch} at a time" if processes == 1 else f"{batch} at a time in each of {processes} processes"
    choices.choose("gradient_accumulation", max(1, effective // (batch * processes)), f"{why}, {at_a_time}.")
    made = batch * choices.values["gradient_accumulation"] * processes
    if processes > 1 and made != effective and given_batch is None and given_accumulation is None:
        choices.reasons["gradient_accumulation"] += f" That makes {made}: {processes} do not divide {effective}."


def choose_epochs(choices: Choices, rows: int) -> None:
    """Passes over the rows."""
    limit, usual, chosen = next(band for band in EPOCHS if rows < band[0])
    bound = f"under {limit}" if limit < 10**9 else f"{EPOCHS[-2][0]} or more"
    choices.choose("epochs", chosen, f"{rows} rows to train on: {usual} passes are usual for {bound}.")


def count_steps(values: dict[str, Any], sequences: int) -> tuple[int, int]:
    """(steps of the run, steps of one epoch), from epochs, max_steps and the effective batch."""
    effective = values["batch_size"] * values["gradient_accumulation"] * values["processes"]
    per_epoch = steps_in_epoch(sequences, effective)
    steps = math.ceil(values["epochs"] * per_epoch)
    if values["max_steps"] is not None:
        steps = min(steps, values["max_steps"])
    return max(1, steps), per_epoch


def choose_pace(choices: Choices, steps: int, hardware: Hardware) -> None:
    """Warm-up, evaluations, checkpoints and patience, from the number of steps.

    Raises:
        InvalidArgument: the warm-up would be longer than the run.
    """
    given = choices.options.warmup_steps
    if given is not None and given >= steps and given > 0:
        raise InvalidArgument(
            f"warmup_steps={given} does not fit in a run of {steps} steps: the rate would never reach its peak.",
            next=f"Use at most {max(0, steps // 2)}, or leave warmup_steps out.",
        )
    if choices.values["scheduler"] == "constant":
        choices.choose("warmup_steps", 0, "A constant rate has no warm-up.")
    else:
        choices.choose("warmup_steps", min(10, steps // 10), "At most 10, and a tenth of the run.")
    evaluations = 8 if hardware.cuda else 4
    eval_steps = max(1, math.ceil(steps / evaluations))
    choices.choose("eval_steps", eval_steps, f"About {evaluations} looks at the held-out rows.")
    choices.choose("save_steps", max(1, min(200, math.ceil(steps / 4))), "At most a quarter of the run can be lost.")
    choices.choose("early_stopping_patience", 3, "Stops after 3 looks without improvement; the best model is kept.")


def _power_of_two(value: float) -> int:
    """The largest power of two not above `value` (at least 1)."""
    return 2 ** int(math.log2(value))
