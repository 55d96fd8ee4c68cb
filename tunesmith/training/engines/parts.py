"""Less at a time: a packed sequence taken in parts, and memory given back before another try."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from tunesmith.training.engines.joined import REAL
from tunesmith.training.kernels import LONGEST, ROW_ENDS, TRAINED

LENGTHS = "packed_seq_lengths"  # Unsloth's, of the rows in a batch


def parts_of(inputs: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """A packed micro-batch as several, each of whole rows and at most `limit` tokens where its rows allow.

    Rows do not see each other in a packed sequence, and the loss is a sum over tokens divided by those of the whole
    optimizer step, so the gradients of the parts add up to that of the whole.

    Args:
        inputs: [1, tokens] each, rows one after the other, `position_ids` from 0 in each row.

    Returns:
        The batch itself where it is not packed or holds something that cannot be divided by rows.
    """
    ids, positions, lengths = inputs["input_ids"], inputs.get("position_ids"), inputs.get(LENGTHS)
    width = ids.shape[-1]
    whole = {name: value for name, value in inputs.items() if name not in (ROW_ENDS, LONGEST, TRAINED, REAL)}
    divisible = all(
        value is None or name == LENGTHS or (isinstance(value, torch.Tensor) and value.shape == ids.shape)
        for name, value in whole.items()
    )
    if ids.shape[0] != 1 or positions is None or not divisible or width <= limit:
        return [dict(inputs)]
    starts = (positions[0] == 0).nonzero().flatten().tolist()
    if starts[:1] != [0] or (lengths is not None and len(lengths) != len(starts)):
        return [dict(inputs)]
    bounds = [(0, 0)]  # (token, row) at which a part begins
    for row, end in enumerate([*starts[1:], width]):
        if end - bounds[-1][0] > limit and starts[row] > bounds[-1][0]:
            bounds.append((starts[row], row))
    bounds.append((width, len(starts)))
    parts: list[dict[str, Any]] = []
    for (start, first), (stop, last) in pairwise(bounds):
        part: dict[str, Any] = {
            name: None if value is None else value[first:last] if name == LENGTHS else value[:, start:stop]
            for name, value in whole.items()
        }
        if ROW_ENDS in inputs:
            ends = [row - start for row in (*starts[first:last], stop)]
            part |= {ROW_ENDS: torch.tensor(ends, dtype=torch.int32, device=ids.device), LONGEST: inputs[LONGEST]}
        parts.append(part)
    if REAL in inputs:
        parts[0][REAL] = inputs[REAL]  # counted once
    return parts


def free_memory() -> None:
    """Give back what nobody uses any more: of Python's objects, and of the card's cache."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
