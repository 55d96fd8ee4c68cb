"""Candidates for a high Jaccard similarity, none of the true pairs left out: prefix and positional filtering.

Two sets of n and m elements have a Jaccard similarity of t or more only if they share
a = ceil(t / (1 + t) * (n + m)) elements. Put the elements of every set in one order, rare
before frequent: the first that both share stands at most n - a places from the start of
one and m - a from the start of the other (AllPairs, Bayardo et al. 2007; PPJoin, Xiao et
al. 2008). An index of these few rare elements finds every similar pair. The two limits
depend on both sizes, so texts written to one template but different enough in their rare
parts never meet, however many elements of the template they share.

What meets is tested once more before it is compared: sketches of 512 bits, a bit being
the parity of how many elements fall on it, differ in at most as many bits as the sets
differ in elements (bitmap filter, Sandes et al. 2020). Both tests are bounds, no guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.data.shingles import batches, hash_shingles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers = NDArray[np.signedinteger[Any]]

SKETCH_BITS = 512
# A key is a shingle's frequency above its hash; a batch adds the text's number on top to sort all texts at once.
_FREQUENCY_BITS, _HASH_BITS, _TEXT_BITS = 12, 36, 16
_MIN_TABLE_BITS, _MAX_TABLE_BITS = 16, 24
# Keeps rounding errors in t * n from moving a limit to the wrong side.
_MARGIN = 1e-6


@dataclass(frozen=True)
class Prefixes:
    """The rare elements by which texts find each other.

    Attributes:
        sizes: distinct shingles of each text.
        sketches: of each text, 8 times 64 bits.
        keys: the rare elements that more than one text may have, sorted.
        owners: the text of each key; where keys are equal, by size, then by number.
        reaches: for each key, the size of the largest text that its owner can be similar to
            if this is the first element that they share.
        threshold: the Jaccard similarity that was asked for.
    """

    sizes: Integers
    sketches: NDArray[np.uint64]
    keys: NDArray[np.uint64]
    owners: Integers
    reaches: Integers
    threshold: float

    def least_partner(self, sizes: Integers) -> Integers:
        """The size of the smallest text that one of each of `sizes` can be similar to."""
        import numpy as np

        return np.ceil(self.threshold * sizes - _MARGIN).astype(np.int64)

    def may_be_similar(self, one: Integers, other: Integers) -> NDArray[np.bool_]:
        """Whether the sketches of pairs of texts leave it possible. Never false for a similar pair."""
        import numpy as np

        both = self.sizes[one] + self.sizes[other]
        shared = np.ceil(self.threshold / (1 + self.threshold) * both - _MARGIN).astype(np.int64)
        differing = np.bitwise_count(self.sketches[one] ^ self.sketches[other]).sum(axis=1, dtype=np.int64)
        return differing <= both - 2 * shared


def find_prefixes(texts: Sequence[str], threshold: float) -> Prefixes:
    """The prefixes of at least one text; memory in proportion to the rare elements, not to all."""
    import numpy as np

    table, shift = _frequencies(texts)
    sizes = np.empty(len(texts), dtype=np.int64)
    sketches = np.empty((len(texts), SKETCH_BITS // 64), dtype=np.uint64)
    keys: list[NDArray[np.uint64]] = []
    owners: list[Integers] = []
    reaches: list[Integers] = []
    for first, batch in batches(texts):
        elements, text_of = _ordered_elements(batch, table, shift)
        own_sizes = np.bincount(text_of, minlength=len(batch))
        sizes[first : first + len(batch)] = own_sizes
        sketches[first : first + len(batch)] = _parities(elements, text_of, len(batch))
        ends = np.cumsum(own_sizes)
        left = ends[text_of] - np.arange(len(elements))  # elements from this one to the text's last
        size = own_sizes[text_of]
        reach = np.floor(left * ((1 + threshold) / threshold) + _MARGIN).astype(np.int64) - size
        frequency = elements >> np.uint64(_HASH_BITS)
        useful = (reach >= np.ceil(threshold * size - _MARGIN)) & (frequency > 1)
        keys.append(elements[useful])
        owners.append((text_of[useful] + first).astype(np.int32))
        reaches.append(reach[useful].astype(np.int32))
    del table
    return Prefixes(sizes, sketches, *_sorted_keys(keys, owners, reaches, sizes), threshold)


def _sorted_keys(
    keys: list[NDArray[np.uint64]], owners: list[Integers], reaches: list[Integers], sizes: Integers
) -> tuple[NDArray[np.uint64], Integers, Integers]:
    import numpy as np

    by_size = np.argsort(sizes, kind="stable")
    place = np.empty(len(sizes), dtype=np.int32)
    place[by_size] = np.arange(len(sizes), dtype=np.int32)
    key, owner = np.concatenate(keys), np.concatenate(owners)
    keys.clear()
    order = np.argsort(place[owner], kind="stable").astype(np.int32)
    order = order[np.argsort(key[order], kind="stable")]
    key = key[order]
    # A key of one text only says nothing; a frequency is an upper bound, so there are still some.
    again = key[1:] == key[:-1]
    shared = np.zeros(len(key), dtype=bool)
    shared[1:] |= again
    shared[:-1] |= again
    order = order[shared]
    return key[shared], owner[order], np.concatenate(reaches)[order]


def _frequencies(texts: Sequence[str]) -> tuple[NDArray[np.uint16], np.uint64]:
    """How often shingles occur, at most 4,095, by the first bits of their hash; and by how much to shift for these."""
    import numpy as np

    characters = sum(map(len, texts))
    bits = min(max(characters.bit_length(), _MIN_TABLE_BITS), _MAX_TABLE_BITS)
    shift = np.uint64(64 - bits)
    table = np.zeros(2**bits, dtype=np.uint32)
    for _first, batch in batches(texts):
        hashes, _starts = hash_shingles(batch)
        np.add.at(table, (hashes >> shift).astype(np.int64), np.uint32(1))
    return np.minimum(table, np.uint32(2**_FREQUENCY_BITS - 1), out=table).astype(np.uint16), shift


def _ordered_elements(
    batch: Sequence[str], table: NDArray[np.uint16], shift: np.uint64
) -> tuple[NDArray[np.uint64], Integers]:
    """The distinct shingles of each text of a batch as keys, text by text, rare ones first; and the text of each."""
    import numpy as np

    hashes, starts = hash_shingles(batch)
    frequency = table[(hashes >> shift).astype(np.int64)].astype(np.uint64)
    elements = (frequency << np.uint64(_HASH_BITS)) | (hashes & np.uint64(2**_HASH_BITS - 1))
    text_of = np.repeat(np.arange(len(batch), dtype=np.uint64), np.diff(starts))
    elements |= text_of << np.uint64(64 - _TEXT_BITS)
    elements.sort()
    elements = elements[np.concatenate(([True], elements[1:] != elements[:-1]))]
    text_of = (elements >> np.uint64(64 - _TEXT_BITS)).astype(np.int64)
    return elements & np.uint64(2 ** (64 - _TEXT_BITS) - 1), text_of


def _parities(elements: NDArray[np.uint64], text_of: Integers, count: int) -> NDArray[np.uint64]:
    """For each text: which of 512 bits an odd number of its elements falls on."""
    import numpy as np

    bits = (elements & np.uint64(SKETCH_BITS - 1)).astype(np.int64)
    odd = np.bincount(text_of * SKETCH_BITS + bits, minlength=count * SKETCH_BITS) & 1
    return np.packbits(odd.astype(np.uint8)).view(np.uint64).reshape(count, SKETCH_BITS // 64)
