"""What a run measures besides its own losses: on which held-out rows, and a control that shows what was learned."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tunesmith.training import facts
from tunesmith.training.examples import Example
from tunesmith.training.fact_records import Facts
from tunesmith.training.preference_symptoms import last_rewards
from tunesmith.training.records import Rewards

EVAL_ROWS_CPU, EVAL_ROWS_CUDA = 64, 512  # held-out rows that are measured; more would cost more than they tell


def rows_to_measure(held_out: Sequence[Example], device: str) -> list[Example]:
    """Every n-th held-out row rather than the first ones: rows of one note lie together."""
    limit = EVAL_ROWS_CUDA if device == "cuda" else EVAL_ROWS_CPU
    return list(held_out[:: max(1, math.ceil(len(held_out) / limit))])


def measure_control(
    trainer: Any, held_out: Sequence[Example], known: Facts, *, seed: int, when: Literal["before", "after"]
) -> Facts:
    """The loss on some held-out rows with their own answers and with each other's: do the answers belong?

    Returns:
        `known` with what was measured; unchanged where too few rows are held out, and for pairs, whose loss is not
        that of an answer.
    """
    if known.objective == "dpo":
        return known
    own, exchanged = facts.control_pairs(held_out, seed)
    if not own:
        return known
    measured, losses = trainer.held_out, []
    try:
        for trainer.held_out in (own, exchanged):
            losses.append(trainer.heldout_loss())
    finally:
        trainer.held_out = measured
    return facts.with_control(known, when=when, rows=len(own), own=losses[0], exchanged=losses[1])


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; half a line is skipped."""
    path = run_dir / "metrics.jsonl"
    lines = []
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def rewards_at(metrics: Sequence[Mapping[str, Any]], step: int) -> Rewards | None:
    """What the look after `step` showed of the held-out pairs; None where it was not written down."""
    rewards = last_rewards(line for line in metrics if line.get("step") == step)
    return Rewards(accuracy=rewards["reward_accuracy"], margin=rewards["reward_margin"]) if rewards else None


def perplexity(loss: float) -> float:
    """exp(loss)."""
    return round(math.exp(min(loss, 80.0)), 4)
