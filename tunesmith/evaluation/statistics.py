"""Statistics over questions: paired, exact where that is possible, seeded where it is not.

The unit is always the question. Repetitions are averaged before they come here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from tunesmith.data.intervals import bootstrap_mean
from tunesmith.evaluation.records import Interval, Pair

LEVEL = 0.05
POWER = 0.8
FEW_QUESTIONS = 20
# Above this many questions the signed-rank distribution is taken as normal; the exact one costs n³ steps.
EXACT_UP_TO = 60


def mean_interval(values: Sequence[float], *, seed: int) -> Interval:
    """The mean of at least one value, with its percentile bootstrap interval.

    The same seed draws the same questions for every model, so intervals are comparable.
    """
    mean, low, high = bootstrap_mean(values, seed)
    return Interval(mean=_round(mean), low=_round(low), high=_round(high))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of `wins` against `losses`, ties left out; 1.0 when there is neither."""
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**n)


def signed_rank_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; differences of exactly 0 are left out.

    Equal sizes share their mean rank. Up to 60 differences the distribution is exact (every assignment of signs to
    the ranks that are there, so it is right with ties too), above that the normal one with the correction for ties.
    """
    nonzero = [value for value in differences if value != 0]
    n = len(nonzero)
    if n == 0:
        return 1.0
    ranks = _doubled_ranks([abs(value) for value in nonzero])
    positive = sum(rank for rank, value in zip(ranks, nonzero, strict=True) if value > 0)
    total = sum(ranks)
    low = min(positive, total - positive)
    if n <= EXACT_UP_TO:
        return min(1.0, 2 * _share_of_sums_up_to(ranks, low))
    # In doubled ranks the mean is total/2 and the variance Σrank²/4, in which ties are accounted for.
    deviation = math.sqrt(sum(rank * rank for rank in ranks)) / 2
    z = (low + 1 - total / 2) / deviation  # half a rank towards the mean, for continuity
    return min(1.0, math.erfc(-min(z, 0.0) / math.sqrt(2)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    running = 0.0
    for position, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - position) * p_values[index]))
        corrected[index] = running
    return corrected


def corrected(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with their p-values Holm-corrected over all of them that have one."""
    judged = [pair.p_value for pair in pairs if pair.p_value is not None]
    values = iter(holm(judged))
    return [
        pair if pair.p_value is None else pair.model_copy(update={"p_value": round(next(values), 6)}) for pair in pairs
    ]


def smallest_visible(differences: Sequence[float], level: float = LEVEL) -> float | None:
    """The true mean difference that as many questions, as scattered as these, would show in 4 cases of 5.

    From the normal approximation, (1.96 + 0.84) · s / √n at the level of 5 %; None with fewer than 2 differences.
    """
    n = len(differences)
    if n < 2:
        return None
    mean = sum(differences) / n
    variance = sum((value - mean) ** 2 for value in differences) / (n - 1)
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(POWER)) * math.sqrt(variance / n)


def fewest_questions(level: float = LEVEL) -> int:
    """Questions below which no two-sided test can reach `level`, even if every one points the same way."""
    return math.ceil(math.log2(2 / level))


def _doubled_ranks(sizes: Sequence[float]) -> list[int]:
    """Twice each value's rank from 1; twice, because shared ranks may end in a half."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    ranks = [0] * len(sizes)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and sizes[order[end + 1]] == sizes[order[start]]:
            end += 1
        for index in order[start : end + 1]:
            ranks[index] = start + end + 2
        start = end + 1
    return ranks


def _share_of_sums_up_to(ranks: Sequence[int], limit: int) -> float:
    """Share of the 2ⁿ subsets of `ranks` whose sum is at most `limit`."""
    counts = [0] * (limit + 1)
    counts[0] = 1
    for rank in ranks:
        for total in range(limit, rank - 1, -1):
            counts[total] += counts[total - rank]
    return sum(counts) / 2 ** len(ranks)


def _round(value: float) -> float:
    return round(value, 4)
