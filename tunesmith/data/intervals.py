"""How far a mean can be trusted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

RESAMPLES = 2000
CONFIDENCE = 0.95
# Of more values the mean is normal to more digits than are shown, and drawing them again would take minutes.
DRAWN_UP_TO = 1000
_Z = 1.959964


def bootstrap_mean(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    """The mean of at least one value, and the ends of its 95 % percentile bootstrap interval.

    The same seed draws the same places of equally long lists. Of more than 1,000 values the interval is the normal one.
    """
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return mean, mean, mean
    if n > DRAWN_UP_TO:
        reach = _Z * math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
        return mean, mean - reach, mean + reach
    means = sorted(sum(draw(values)) / n for draw in _draws(seed, n, RESAMPLES))
    cut = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    return mean, means[cut], means[-cut - 1]


@lru_cache(maxsize=4)
def _draws(seed: int, n: int, resamples: int) -> list[Callable[[Sequence[float]], tuple[Any, ...]]]:
    """What takes the values at the drawn places, for each resample; one comparison asks for the same many times."""
    draw, places = random.Random(seed), list(range(n))
    return [itemgetter(*draw.choices(places, k=n)) for _ in range(resamples)]
