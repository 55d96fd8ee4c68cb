"""Pairs of nearly equal texts: those whose shingles have a Jaccard similarity of at least a threshold.

Nothing here is left to chance: candidates come from an index that finds every similar
pair (`prefixes`), and they are compared shingle by shingle. A shingle's hash has
64 bits, of which 36 and a frequency tell shingles of one text apart in the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.data.prefixes import Prefixes, find_prefixes
from tunesmith.data.shingles import ShingleSets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers = NDArray[np.signedinteger[Any]]
    PairArrays = Iterator[tuple[Integers, Integers]]

DEFAULT_THRESHOLD = 0.8
MIN_THRESHOLD = 0.5  # below, "near" means little and every text is a candidate
_CHUNK_PAIRS = 2**16


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
        lengths = np.diff(starts, append=len(owners))
        alone &= owners != np.repeat(np.minimum.reduceat(owners, starts), lengths)  # the first needs no earlier one
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


def _search(
    texts: Sequence[str], threshold: float, goal: _Connect | _Match, on_progress: Callable[[str], None] | None
) -> Iterator[tuple[int, int]]:
    import numpy as np

    if len(texts) < 2:
        return
    prefixes = find_prefixes(texts, threshold)
    if on_progress is not None:
        on_progress(f"{len(texts)} distinct texts indexed")
    sets = ShingleSets(texts)
    for earlier, later in _candidates(prefixes, goal):
        open_pairs = np.flatnonzero(goal.wants(earlier, later))
        near = open_pairs[prefixes.may_be_similar(earlier[open_pairs], later[open_pairs])]
        for a, b in zip(earlier[near].tolist(), later[near].tolist(), strict=True):
            if goal.wants_one(a, b) and sets.jaccard(a, b) >= threshold:
                goal.accept(a, b)
                yield a, b


def _candidates(prefixes: Prefixes, goal: _Connect | _Match) -> PairArrays:
    """Pairs that share a key early enough to be similar, the smaller number first, in chunks.

    The larger text of a pair looks for the smaller among those before it that have the
    same key. Keys that the goal is done with are left.
    """
    import numpy as np

    keys, owners, reaches = prefixes.keys, prefixes.owners, prefixes.reaches
    if not len(keys):
        return
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    run_of = np.repeat(np.arange(len(starts), dtype=np.int32), np.diff(starts, append=len(keys)))
    sizes = prefixes.sizes[owners].astype(np.int32)
    first, end = _partners(prefixes, run_of, sizes)
    pending = _Pairs()
    larger = np.flatnonzero(first < end)
    smaller = _hubs(larger, owners, starts, run_of)
    inside = (first[larger] <= smaller) & (smaller < end[larger])
    round_larger, round_smaller = larger[inside], smaller[inside]
    distance = 0
    while True:
        for begin in range(0, len(round_larger), _CHUNK_PAIRS):
            big, small = round_larger[begin : begin + _CHUNK_PAIRS], round_smaller[begin : begin + _CHUNK_PAIRS]
            reached = sizes[big] <= reaches[small]
            pending.add(owners[big[reached]], owners[small[reached]])
            if pending.count >= _CHUNK_PAIRS:
                yield pending.take()
        distance += 1
        larger = larger[end[larger] - distance >= first[larger]]
        if distance & (distance - 1) == 0:  # at 1, 2, 4, 8, …: look again at what is worth going on with
            if pending.count:
                yield pending.take()
            larger = larger[goal.open_runs(owners, starts)[run_of[larger]]]
        if not len(larger):
            break
        round_larger, round_smaller = larger, end[larger] - distance
    if pending.count:
        yield pending.take()


def _partners(prefixes: Prefixes, run_of: Integers, sizes: Integers) -> tuple[Integers, Integers]:
    """For each key, from where to before where in its run the smaller texts stand that its owner may be similar to."""
    import numpy as np

    span = int(sizes.max()) + 1
    place = run_of.astype(np.int64) * span + sizes  # ascending: a run is sorted by size
    first, end = np.empty(len(sizes), dtype=np.int32), np.empty(len(sizes), dtype=np.int32)
    for begin in range(0, len(sizes), _CHUNK_PAIRS):
        part = slice(begin, begin + _CHUNK_PAIRS)
        base = place[part] - sizes[part]
        first[part] = np.searchsorted(place, base + prefixes.least_partner(sizes[part]))
        largest = np.minimum(prefixes.reaches[part], sizes[part])
        end[part] = np.searchsorted(place, base + largest, side="right")
    return first, np.minimum(end, np.arange(len(sizes), dtype=np.int32))


def _hubs(larger: Integers, owners: Integers, starts: Integers, run_of: Integers) -> Integers:
    """The position of the smallest number in the run of each: once a thousand copies have met it, nothing is left."""
    import numpy as np

    least = np.minimum.reduceat(owners, starts)
    return np.flatnonzero(owners == least[run_of])[run_of[larger]]


class _Pairs:
    """Arrays of pairs, gathered until there are enough to be worth a look."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Integers, Integers]] = []
        self.count = 0

    def add(self, one: Integers, other: Integers) -> None:
        self._pieces.append((one, other))
        self.count += len(one)

    def take(self) -> tuple[Integers, Integers]:
        """The smaller number of each pair, and the larger."""
        import numpy as np

        one, other = (np.concatenate(side) for side in zip(*self._pieces, strict=True))
        self._pieces.clear()
        self.count = 0
        return np.minimum(one, other), np.maximum(one, other)
