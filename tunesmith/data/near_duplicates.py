"""Pairs of nearly equal texts: those whose shingles have a Jaccard similarity of at least a threshold.

Candidates come from MinHash sketches cut into bands (`rensa`): two texts of
similarity s agree in one of b bands of r values with probability 1 - (1 - s^r)^b.
With 256 values r is chosen so that a pair at the threshold is missed with a
probability below 10^-8; 16 bands, as usual, would miss one in 70 at best. Texts
written to one template agree in bands by the thousand; among those the candidates
are found by their rare shingles instead (prefix filtering: Chaudhuri et al. 2006).
A candidate whose sketches disagree by more than six standard deviations is
dropped, the others are compared shingle by shingle: what is reported is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from tunesmith.data.shingles import ShingleSets, batches, hash_shingles, sorted_distinct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    PairArrays = Iterator[tuple[Integers, Integers]]

DEFAULT_THRESHOLD = 0.8
MIN_THRESHOLD = 0.5  # below, "near" means little and every text is a candidate
SKETCH_VALUES = 256
MISS_PROBABILITY = 1e-8
_SEED = 20251
_LARGE_RUN = 256
_CHUNK_PAIRS = 2**16
_TABLE_BITS = 20
_FREQUENCY_BITS = 20


def similar_pairs(
    texts: Sequence[str], threshold: float = DEFAULT_THRESHOLD, *, on_progress: Callable[[str], None] | None = None
) -> Iterator[tuple[int, int]]:
    """Pairs `(earlier, later)` of texts with a Jaccard similarity of at least `threshold`, in no order.

    Enough pairs are given, not all (those of a thousand copies are half a million):
    every text that has a similar earlier one is the later one of at least one pair,
    and the pairs connect what all pairs would connect.

    Args:
        texts: distinct texts.
        threshold: 0.5 to 1.
    """
    return _search(texts, threshold, _Connect(len(texts)), on_progress)


def similar_across(
    texts: Sequence[str],
    asking: Sequence[bool],
    answering: Sequence[bool],
    threshold: float = DEFAULT_THRESHOLD,
    *,
    on_progress: Callable[[str], None] | None = None,
) -> dict[int, int]:
    """For every text of the asking side that has a similar other text on the answering side: one such text.

    Args:
        texts: distinct texts.
        asking, answering: whether each text is on that side; it may be on both.
        threshold: 0.5 to 1.
    """
    match = _Match(asking, answering)
    for _pair in _search(texts, threshold, match, on_progress):
        pass
    return match.found


class _Connect:
    """Looks for pairs that connect, or that give a text its first earlier neighbour."""

    def __init__(self, count: int) -> None:
        import numpy as np

        self._joined = Components(count)
        self._has_earlier = np.zeros(count, dtype=bool)
        self._roots: Integers | None = None

    def _current_roots(self) -> Integers:
        import numpy as np

        if self._roots is None:
            self._roots = np.asarray(self._joined.roots())
        return self._roots

    def wants(self, earlier: Integers, later: Integers) -> NDArray[np.bool_]:
        root = self._current_roots()
        return (root[earlier] != root[later]) | ~self._has_earlier[later]

    def wants_one(self, earlier: int, later: int) -> bool:
        return not (bool(self._has_earlier[later]) and self._joined.same(earlier, later))

    def accept(self, earlier: int, later: int) -> None:
        self._joined.join(earlier, later)
        self._has_earlier[later] = True
        self._roots = None

    def open_runs(self, owners: Integers, starts: Integers) -> NDArray[np.bool_]:
        import numpy as np

        root = self._current_roots()[owners]
        alone = ~self._has_earlier[owners]
        alone[starts] = False  # the first of a run needs no earlier one
        split = np.minimum.reduceat(root, starts) != np.maximum.reduceat(root, starts)
        return split | np.logical_or.reduceat(alone, starts)


class _Match:
    """Looks for one answering neighbour of every asking text."""

    def __init__(self, asking: Sequence[bool], answering: Sequence[bool]) -> None:
        import numpy as np

        self._asking = np.array(asking, dtype=bool)  # a copy: a text stops asking when it is answered
        self._answering = np.asarray(answering, dtype=bool)
        self.found: dict[int, int] = {}

    def wants(self, earlier: Integers, later: Integers) -> NDArray[np.bool_]:
        forward = self._asking[earlier] & self._answering[later]
        return forward | (self._asking[later] & self._answering[earlier])

    def wants_one(self, earlier: int, later: int) -> bool:
        forward = self._asking[earlier] and self._answering[later]
        return bool(forward or (self._asking[later] and self._answering[earlier]))

    def accept(self, earlier: int, later: int) -> None:
        for one, other in ((earlier, later), (later, earlier)):
            if self._asking[one] and self._answering[other]:
                self.found[one] = other
        for one in (earlier, later):
            if one in self.found:
                self._asking[one] = False

    def open_runs(self, owners: Integers, starts: Integers) -> NDArray[np.bool_]:
        import numpy as np

        asked = np.logical_or.reduceat(self._asking[owners], starts)
        return asked & np.logical_or.reduceat(self._answering[owners], starts)


class Components:
    """Union-find over numbers from 0; a component is named by its smallest."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        """The smallest number connected with `item`."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def same(self, a: int, b: int) -> bool:
        """Whether the two are connected."""
        return self.find(a) == self.find(b)

    def join(self, a: int, b: int) -> None:
        """Connect the two."""
        low, high = sorted((self.find(a), self.find(b)))
        self._parent[high] = low

    def roots(self) -> list[int]:
        """The component of every number."""
        return [self.find(item) for item in range(len(self._parent))]


def values_in_a_band(threshold: float) -> int:
    """As many as keep the chance to miss a pair at the threshold below `MISS_PROBABILITY`."""
    for values in range(32, 1, -1):
        if threshold >= 1 or (1 - threshold**values) ** (SKETCH_VALUES // values) < MISS_PROBABILITY:
            return values
    return 1


def _search(
    texts: Sequence[str], threshold: float, goal: _Connect | _Match, on_progress: Callable[[str], None] | None
) -> Iterator[tuple[int, int]]:
    import numpy as np

    if len(texts) < 2:
        return
    sketches, bands = _sketch(texts, values_in_a_band(threshold))
    if on_progress is not None:
        on_progress(f"{len(texts)} distinct texts sketched")
    sets = ShingleSets(texts)
    # Six standard deviations below the threshold.
    agreeing = SKETCH_VALUES * threshold - 6 * math.sqrt(SKETCH_VALUES * threshold * (1 - threshold))
    for earlier, later in _raw_pairs(texts, threshold, bands, goal):
        open_pairs = np.flatnonzero(goal.wants(earlier, later))
        agreement = np.count_nonzero(sketches[earlier[open_pairs]] == sketches[later[open_pairs]], axis=1)
        near = open_pairs[agreement >= agreeing]
        for a, b in zip(earlier[near].tolist(), later[near].tolist(), strict=True):
            if goal.wants_one(a, b) and sets.jaccard(a, b) >= threshold:
                goal.accept(a, b)
                yield a, b


def _sketch(texts: Sequence[str], values: int) -> tuple[NDArray[np.uint8], list[NDArray[np.uint64]]]:
    """A short sketch of each text (the low byte of 256 MinHash values), and the key of each of its bands."""
    import numpy as np
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  # compiled, without types

    count = SKETCH_VALUES // values
    sketches = np.empty((len(texts), SKETCH_VALUES), dtype=np.uint8)
    keys = np.empty((count, len(texts)), dtype=np.uint64)
    factors = np.random.default_rng(_SEED).integers(1, 2**63, size=values, dtype=np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    for first, batch in batches(texts):
        hashes, starts = hash_shingles(batch)
        digest = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts.astype(np.uint64), SKETCH_VALUES, _SEED)
        matrix = np.array(digest.to_rows(), dtype=np.uint64)
        end = first + len(batch)
        sketches[first:end] = matrix & np.uint64(0xFF)
        banded = matrix[:, : count * values].reshape(len(batch), count, values)
        keys[:, first:end] = (banded * factors).sum(axis=2, dtype=np.uint64).T
    return sketches, list(keys)


def _raw_pairs(
    texts: Sequence[str], threshold: float, bands: Sequence[NDArray[np.uint64]], goal: _Connect | _Match
) -> PairArrays:
    """Arrays of pairs that agree in a band; of the many that agree in a large one, those that can be similar."""
    import numpy as np

    crowded = np.zeros(len(texts), dtype=bool)
    for keys in bands:
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        lengths = np.diff(_run_starts(ordered), append=len(ordered))
        large = np.repeat(lengths > _LARGE_RUN, lengths)
        crowded[order[large]] = True
        yield from _pairs_in_runs(ordered[~large], order[~large], goal)
    members = np.flatnonzero(crowded)
    if len(members):
        keys, owners = _rare_shingles([texts[number] for number in members.tolist()], threshold)
        order = np.argsort(keys, kind="stable")
        yield from _pairs_in_runs(keys[order], members[owners[order]], goal)


def _run_starts(ordered: NDArray[np.uint64]) -> Integers:
    import numpy as np

    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))


def _pairs_in_runs(ordered: NDArray[np.uint64], owners: Integers, goal: _Connect | _Match) -> PairArrays:
    """Pairs of owners whose keys are equal, the smaller first, in chunks; runs the goal is done with are left.

    Args:
        ordered: sorted keys.
        owners: of each key; ascending where keys are equal.
    """
    import numpy as np

    distance, pending = 1, _Pairs()
    while len(ordered) > 1:
        # Neighbours at distance 1, then 2, …: a run of n gives pairs at n-1 distances.
        at = np.flatnonzero(ordered[:-distance] == ordered[distance:])
        if not len(at):
            break
        for begin in range(0, len(at), _CHUNK_PAIRS):
            piece = at[begin : begin + _CHUNK_PAIRS]
            pending.add(owners[piece], owners[piece + distance])
            if pending.count >= _CHUNK_PAIRS:
                yield pending.take()
        distance += 1
        if distance & (distance - 1) == 0:  # at 2, 4, 8, …: look again at what is worth going on with
            if pending.count:
                yield pending.take()
            starts = _run_starts(ordered)
            lengths = np.diff(starts, append=len(ordered))
            going_on = np.repeat((lengths > distance) & goal.open_runs(owners, starts), lengths)
            ordered, owners = ordered[going_on], owners[going_on]
    if pending.count:
        yield pending.take()


class _Pairs:
    """Arrays of pairs, gathered until there are enough to be worth a look."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Integers, Integers]] = []
        self.count = 0

    def add(self, earlier: Integers, later: Integers) -> None:
        self._pieces.append((earlier, later))
        self.count += len(earlier)

    def take(self) -> tuple[Integers, Integers]:
        import numpy as np

        earlier, later = (np.concatenate(side) for side in zip(*self._pieces, strict=True))
        self._pieces.clear()
        self.count = 0
        return earlier, later


def _rare_shingles(texts: Sequence[str], threshold: float) -> tuple[NDArray[np.uint64], Integers]:
    """The rarest shingles of each text as sortable keys, and the text of each key, ascending.

    Two sets of similarity t share one of the first `n - ceil(t·n) + 1` elements of each,
    in any order common to all sets; ordered from rare to frequent, few others do.
    """
    import numpy as np

    table = np.zeros(2**_TABLE_BITS, dtype=np.int64)
    slot_shift = np.uint64(64 - _TABLE_BITS)
    for _first, batch in batches(texts):
        hashes, _starts = hash_shingles(batch)
        table += np.bincount((hashes >> slot_shift).astype(np.int64), minlength=2**_TABLE_BITS)
    rank = np.minimum(table, 2**_FREQUENCY_BITS - 1).astype(np.uint64) << np.uint64(64 - _FREQUENCY_BITS)
    keys: list[NDArray[np.uint64]] = []
    for _first, batch in batches(texts):
        hashes, starts = hash_shingles(batch)
        ordered = rank[(hashes >> slot_shift).astype(np.int64)] | (hashes >> np.uint64(_FREQUENCY_BITS))
        for begin, end in pairwise(starts.tolist()):
            distinct = sorted_distinct(ordered[begin:end])
            # The small margin keeps a rounding error in t·n from shortening the prefix.
            keys.append(distinct[: len(distinct) - math.ceil(threshold * len(distinct) - 1e-9) + 1].copy())
    owners = np.repeat(np.arange(len(texts)), [len(own) for own in keys])
    return np.concatenate(keys), owners
