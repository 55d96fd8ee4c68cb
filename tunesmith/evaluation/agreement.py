"""How far two agree who scored the same answers from 1 to 5.

The weighted kappa is Cohen's (1968) with quadratic weights, 1 - Σ(x - y)² / (Σ over all crossings (x - y)² / n);
Spearman's correlation is Pearson's of the ranks, equal values sharing their mean rank.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from tunesmith.evaluation.records import Agreement

Values = tuple[float, float, float]
LEAST_ANSWERS = 10  # under this many a coefficient is noise


def agree(pairs: Sequence[tuple[Values, Values]]) -> Agreement | None:
    """The agreement of two, by the three scores that each gave an answer; None without an answer that both scored."""
    if not pairs:
        return None
    ours = [value for one, _ in pairs for value in one]
    theirs = [value for _, other in pairs for value in other]
    gaps = [x - y for x, y in zip(ours, theirs, strict=True)]
    enough = len(pairs) >= LEAST_ANSWERS
    kappa = weighted_kappa(ours, theirs) if enough else None
    correlation = spearman([sum(one) for one, _ in pairs], [sum(other) for _, other in pairs]) if enough else None
    return Agreement(
        pairs=len(pairs),
        exact=round(sum(gap == 0 for gap in gaps) / len(gaps), 4),
        within_one=round(sum(abs(gap) <= 1 for gap in gaps) / len(gaps), 4),
        difference=round(sum(gaps) / len(gaps), 4),
        weighted_kappa=None if kappa is None else round(kappa, 4),
        rank_correlation=None if correlation is None else round(correlation, 4),
    )


def weighted_kappa(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Cohen's kappa with quadratic weights; None where neither of two equal constants can disagree."""
    n = len(ours)
    seen = sum((x - y) ** 2 for x, y in zip(ours, theirs, strict=True)) / n
    first, second = Counter(ours), Counter(theirs)
    by_chance = sum(first[x] * second[y] * (x - y) ** 2 for x in first for y in second) / n**2
    return None if by_chance == 0 else 1 - seen / by_chance


def spearman(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where one of them does not vary."""
    x, y = _ranks(ours), _ranks(theirs)
    middle = (len(x) + 1) / 2
    across = sum((a - middle) * (b - middle) for a, b in zip(x, y, strict=True))
    scale = math.sqrt(sum((a - middle) ** 2 for a in x) * sum((b - middle) ** 2 for b in y))
    return None if scale == 0 else across / scale


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share their mean rank."""
    count = Counter(values)
    below, rank = 0, {}
    for value in sorted(count):
        rank[value] = below + (count[value] + 1) / 2
        below += count[value]
    return [rank[value] for value in values]
