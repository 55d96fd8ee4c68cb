"""Texts as sets of 5-character substrings. Words fail on Chinese, which has no spaces between them.

All in numpy: a shingle is a 64-bit hash of its characters (multilinear, then mixed;
two different shingles of one pair of texts collide with a probability near 2^-40).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

SHINGLE_CHARS = 5
# Small enough that the arrays of one batch stay in the processor's cache.
BATCH_CHARS = 2**17
_CACHED_SETS = 4096
# Odd random numbers: one for each character of a shingle, one to mix the sum.
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
_MIX = 0xBF58476D1CE4E5B9


def hash_shingles(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of all shingles of some texts, in order and repeated, and where each text's begin.

    The second array has one entry more than there are texts. A text of fewer than 5
    characters is its own only shingle.
    """
    import numpy as np

    gap = SHINGLE_CHARS - 1
    padded = [text if len(text) > gap else text.ljust(SHINGLE_CHARS, "\0") for text in texts]
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = len(points) - gap
    hashes = points[:count] * np.uint64(_FACTORS[0])
    product = np.empty(count, dtype=np.uint64)
    for offset in range(1, SHINGLE_CHARS):
        np.multiply(points[offset : offset + count], np.uint64(_FACTORS[offset]), out=product)
        hashes += product
    # The low bits of the sum know little of the characters' high bits.
    hashes ^= np.right_shift(hashes, np.uint64(32), out=product)
    hashes *= np.uint64(_MIX)
    hashes ^= np.right_shift(hashes, np.uint64(29), out=product)
    lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
    starts = np.concatenate(([0], np.cumsum(lengths - gap)))
    if len(padded) == 1:
        return hashes, starts
    # The windows that reach from one text into the next are not shingles of either.
    inside = np.ones(count, dtype=bool)
    ends = np.cumsum(lengths)[:-1]
    for step in range(1, gap + 1):
        inside[ends - step] = False
    return hashes[inside], starts


def batches(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Slices of `texts` of about `BATCH_CHARS` characters, each with the number of its first text."""
    first = characters = 0
    for index, text in enumerate(texts):
        characters += max(len(text), SHINGLE_CHARS)
        if characters >= BATCH_CHARS:
            yield first, texts[first : index + 1]
            first, characters = index + 1, 0
    if first < len(texts):
        yield first, texts[first:]


class ShingleSets:
    """Sorted distinct shingles of single texts, the last few thousand kept."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._kept: dict[int, Hashes] = {}

    def jaccard(self, a: int, b: int) -> float:
        """Shingles in both texts divided by shingles in either."""
        import numpy as np

        left, right = self._of(a), self._of(b)
        both = np.concatenate((left, right))
        both.sort(kind="stable")  # two sorted runs are merged in linear time
        shared = int(np.count_nonzero(both[1:] == both[:-1]))
        return shared / (len(left) + len(right) - shared)

    def _of(self, index: int) -> Hashes:
        found = self._kept.get(index)
        if found is None:
            hashes, _starts = hash_shingles([self._texts[index]])
            found = self._kept[index] = sorted_distinct(hashes)
            if len(self._kept) > _CACHED_SETS:
                del self._kept[next(iter(self._kept))]
        return found


def sorted_distinct(hashes: Hashes) -> Hashes:
    """The distinct values of at least one hash, sorted; the array given is sorted in place."""
    import numpy as np

    hashes.sort()
    first = np.empty(len(hashes), dtype=bool)
    first[0] = True
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:])
    return hashes[first]
