"""Packed rows as the fast kernels want them: one sequence of always the same length, with the rows' boundaries."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tunesmith.training.batching import pack
from tunesmith.training.examples import IGNORED, Example
from tunesmith.training.kernels import LONGEST, ROW_ENDS, TRAINED

REAL = "real_tokens"


def packed_rows(train: Sequence[Example], max_length: int, seed: int) -> dict[str, list[Any]]:
    """The columns `input_ids`, `labels` and `seq_lengths` of packed sequences, in an order drawn from the seed."""
    groups = pack([len(example.input_ids) for example in train], max_length)
    random.Random(seed).shuffle(groups)  # packing goes by length, and rows of one length may be of one kind
    return {
        "input_ids": [[token for row in group for token in train[row].input_ids] for group in groups],
        "labels": [[label for row in group for label in train[row].labels] for group in groups],
        "seq_lengths": [[len(train[row].input_ids) for row in group] for group in groups],
    }


class Joining:
    """Collates sequences into one of `length` tokens; what is left of it is rows of padding that nothing learns from.

    All batches are alike in shape, so that what was compiled for one serves all.

    Args:
        length: tokens of a whole micro-batch.
        longest: a bound on the tokens of a row.
        rows: how many rows a micro-batch is expected to hold at most, padding aside.
        filler: the token of the padding.
    """

    def __init__(self, *, length: int, longest: int, rows: int, filler: int) -> None:
        self.length, self.longest, self.filler = length, longest, filler
        self.rows = rows + -(-length // longest)

    def __call__(self, sequences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """[1, length] each of `input_ids`, `labels`, `position_ids`; and `row_ends`, `trained_at`, `real_tokens`."""
        ids = [token for sequence in sequences for token in sequence["input_ids"]]
        labels = [label for sequence in sequences for label in sequence["labels"]]
        left = self.length - len(ids)
        lengths = [length for sequence in sequences for length in sequence["seq_lengths"]]
        lengths += [min(self.longest, left - start) for start in range(0, left, self.longest)]
        ends = [0, *itertools.accumulate(lengths)]
        labels += [IGNORED] * left
        for start in ends[:-1]:
            labels[start] = IGNORED  # it would be predicted from the last token of the row before
        return {
            "input_ids": torch.tensor([ids + [self.filler] * left]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.tensor([[place for length in lengths for place in range(length)]]),
            ROW_ENDS: torch.tensor(ends + [self.length] * (self.rows + 1 - len(ends)), dtype=torch.int32),
            LONGEST: self.longest,
            TRAINED: torch.tensor([place for place, label in enumerate(labels) if label != IGNORED]),
            REAL: torch.tensor(len(ids)),
        }
