"""A plan for very many rows, made from some of them: reading and counting them all would take minutes.

The longest rows, of which memory and `max_length` depend, are all read; the others are drawn at random, and stand for
those that were not. The run itself reads every row.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.data.records import Dataset, Row
from tunesmith.data.store import DatasetStore
from tunesmith.training.examples import Example, SplitRows

WHOLE_UP_TO = 50_000  # rows
DRAWN, LONGEST = 10_000, 500


@dataclass(frozen=True)
class SampledRows:
    """Rows that were read, the longest first, and how many there are in all.

    Attributes:
        longest: how many of each side are there because they are long.
    """

    split: SplitRows
    longest_train: int
    longest_eval: int
    train: int
    eval: int

    @property
    def note(self) -> str:
        read = len(self.split.train) + len(self.split.eval)
        return (
            f"Tokens were counted on {read:,} of {self.train + self.eval:,} rows, the longest among them; the others "
            "are taken to be like these. The run counts them all."
        )


def sample_rows(store: DatasetStore, dataset: Dataset, *, eval_fraction: float, seed: int) -> SampledRows:
    """Some rows of a large dataset, in two parts as they would be trained on.

    Raises:
        StoreCorrupt: a row that was chosen cannot be read.
    """
    drawn = set(random.Random(seed).sample(range(dataset.rows), min(DRAWN, dataset.rows)))
    lines: dict[int, bytes] = {}
    longest: list[tuple[int, int, bytes]] = []
    with store.rows_path(dataset.dataset_id).open("rb") as file:
        for number, line in enumerate(file):
            if number in drawn:
                lines[number] = line
            elif len(longest) < LONGEST:
                heapq.heappush(longest, (len(line), number, line))
            elif len(line) > longest[0][0]:
                heapq.heapreplace(longest, (len(line), number, line))
    first = [Row.model_validate_json(line) for _, _, line in sorted(longest, reverse=True)]
    others = [Row.model_validate_json(line) for _, line in sorted(lines.items())]
    held_out = dataset.splits.eval
    if held_out:
        sides = [([row for row in rows if row.split != "eval"], [row for row in rows if row.split == "eval"])
                 for rows in (first, others)]  # fmt: skip
        by = "the dataset's own split"
    else:
        held_out = max(1, round(dataset.rows * eval_fraction))
        share = max(1, round(len(others) * eval_fraction))
        sides = [(first, []), (others[share:], others[:share])]
        by = f"whole sections drawn with seed {seed}"
    (first_train, first_eval), (train, eval_rows) = sides
    split = SplitRows([*first_train, *train], [*first_eval, *eval_rows], by)
    return SampledRows(split, len(first_train), len(first_eval), dataset.rows - held_out, held_out)


def stand_for_all(examples: Sequence[Example], longest: int, count: int) -> list[Example]:
    """`count` examples: those that are long once, the others again and again. No example is copied."""
    usual = examples[longest:] or examples
    return [*examples[:longest], *itertools.islice(itertools.cycle(usual), max(0, count - longest))]
