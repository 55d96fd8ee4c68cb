"""How far a mean can be trusted."""

from __future__ import annotations

import random
from collections.abc import Sequence

RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap_mean(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    """The mean of at least one value, and the ends of its 95 % percentile bootstrap interval.

    The same seed draws the same places of equally long lists.
    """
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return mean, mean, mean
    draw = random.Random(seed)
    means = sorted(sum(draw.choices(values, k=n)) / n for _ in range(RESAMPLES))
    cut = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    return mean, means[cut], means[-cut - 1]
