"""The numbers of a run as curves, whatever its `metrics.jsonl` holds. Time grows with its length, no faster."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

_NOT_FINITE = frozenset({"nan", "inf", "-inf", "NaN", "Infinity", "-Infinity"})
_LARGEST = 1e300  # a JSON integer may be larger than any float


@dataclass(frozen=True)
class Curves:
    """In order of steps.

    Attributes:
        losses: of the training steps, nats per token.
        smooth: their moving mean, as long as `losses`.
        held_out: (step, loss) of each look at the held-out rows; step 0 is before training.
        norms: gradient norms before clipping.
        broken: steps whose loss or gradient is not a finite number, ascending.
    """

    losses: list[float]
    smooth: list[float]
    held_out: list[tuple[int, float]]
    norms: list[float]
    broken: list[int]

    @property
    def before(self) -> float | None:
        """The held-out loss before the first step."""
        return self.held_out[0][1] if self.held_out and self.held_out[0][0] == 0 else None

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and loss of the best look."""
        return min(self.held_out, key=lambda look: look[1], default=None)


def read(metrics: Iterable[Mapping[str, Any]]) -> Curves:
    """Curves from the lines of `metrics.jsonl`. What is missing or of a wrong type is passed over."""
    # By step: a run that went back to a checkpoint measured some steps twice, and the later line counts.
    losses: dict[int, float] = {}
    held_out: dict[int, float] = {}
    norms: dict[int, float] = {}
    broken: set[int] = set()
    for line in metrics:
        step = line.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            continue
        if any(_is_broken(line.get(name)) for name in ("loss", "eval_loss", "grad_norm")):
            broken.add(step)
        for name, values in (("loss", losses), ("eval_loss", held_out), ("grad_norm", norms)):
            if (value := _number(line.get(name))) is not None:
                values[step] = value
    in_order = [losses[step] for step in sorted(losses)]
    return Curves(
        losses=in_order,
        smooth=moving_mean(in_order),
        held_out=sorted(held_out.items()),
        norms=[norms[step] for step in sorted(norms)],
        broken=sorted(broken),
    )


def window_of(steps: int) -> int:
    """Steps in the moving mean of so many: a tenth, at least three, always odd."""
    return max(3, steps // 10) // 2 * 2 + 1


def moving_mean(values: Sequence[float]) -> list[float]:
    """The mean over `window_of` values around each; fewer at the ends."""
    half = window_of(len(values)) // 2
    if half <= 32:
        return [fmean(values[max(0, at - half) : at + half + 1]) for at in range(len(values))]
    sums = [0.0, *accumulate(values)]
    ends = [(max(0, at - half), min(len(values), at + half + 1)) for at in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _LARGEST else None  # false for NaN too


def _is_broken(value: Any) -> bool:
    """Not a finite number: as a number, or as the word that JSON needs for it."""
    if isinstance(value, str):
        return value in _NOT_FINITE
    return isinstance(value, float) and not math.isfinite(value)
