"""In which order rows are trained on, and how much padding that costs.

Rows of like length go into one optimizer step, so that little is padded; which
rows, and in which order the steps come, is drawn anew for each epoch from the seed.
The order does not depend on the micro-batch: a run that continues with a smaller
one after running out of memory sees the same rows in the same steps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

WINDOW_STEPS = 8  # rows are sorted by length within this many steps' worth of shuffled rows


def epoch_order(lengths: Sequence[int], effective_batch: int, *, seed: int, epoch: int) -> list[int]:
    """The rows of one epoch, by index, steps one after the other.

    Each consecutive `effective_batch` indices are one optimizer step; only the last may be short. Within a step
    the longest row comes first, so that a run which will not fit fails early in a step.
    """
    draw = random.Random(f"{seed}:{epoch}")
    indices = list(range(len(lengths)))
    draw.shuffle(indices)
    window = effective_batch * WINDOW_STEPS
    steps: list[list[int]] = []
    short: list[int] = []
    for start in range(0, len(indices), window):
        ordered = sorted(indices[start : start + window], key=lambda index: (-lengths[index], index))
        for first in range(0, len(ordered), effective_batch):
            step = ordered[first : first + effective_batch]
            if len(step) == effective_batch:
                steps.append(step)
            else:
                short = step  # only the last window can leave one
    draw.shuffle(steps)
    return [index for step in (*steps, short) for index in step]


def padded_tokens(lengths: Sequence[int], order: Sequence[int], batch_size: int) -> int:
    """Tokens that one epoch in that order computes on: each micro-batch is padded to its longest row."""
    return sum(
        len(batch) * max(lengths[index] for index in batch)
        for batch in (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    )


def pack(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Which rows, by index, share a sequence of `max_length` tokens: best fit, longest row first.

    Rows longer than `max_length` count as that long.
    """
    import bisect

    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free tokens, group) of each sequence that has room for a row, ascending
    shortest = min(lengths, default=0)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        length = min(lengths[row], max_length)
        place = bisect.bisect_left(rooms, (length, 0))
        if place < len(rooms):
            room, group = rooms.pop(place)
        else:
            room, group = max_length, len(groups)
            groups.append([])
        groups[group].append(row)
        if room - length >= shortest:
            bisect.insort(rooms, (room - length, group))
    return groups


def packed_sequences(lengths: Sequence[int], max_length: int) -> int:
    """Sequences of `max_length` that packing makes of the rows."""
    return len(pack(lengths, max_length))


def steps_in_epoch(sequences: int, effective_batch: int) -> int:
    """Optimizer steps of one epoch; the last may be short."""
    return -(-sequences // effective_batch)
