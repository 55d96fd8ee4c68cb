"""Setting rows aside for evaluation so that nothing in them was seen in training."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tunesmith.data.checks.repeats import Repeats, row_text
from tunesmith.data.near_duplicates import Components
from tunesmith.data.records import Dataset, Row, Source
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, InvalidArgument
from tunesmith.workspace import Workspace


def split(workspace: Workspace, dataset_id: str, *, eval_fraction: float = 0.1, seed: int = 42) -> Dataset:
    """A new dataset in which every row is in `train` or `eval`.

    Rows that share a section of the notes (overlapping lines of one file, or the
    same heading in it), have the same text or nearly (Jaccard similarity of 0.8), stay together;
    so do rows that prefer answers to the same question.
    Groups are taken for evaluation in the order of the SHA-256 of the seed and their
    texts until `eval_fraction` of the rows is reached, so the same rows and seed give
    the same split, in whatever order the rows stand.

    Args:
        eval_fraction: of the rows, above 0 and below 1. At least one row goes to each side;
            large groups may leave the evaluation side smaller than asked for.
        seed: any integer.

    Raises:
        NotFound, InvalidArgument: as `DatasetStore.get`; a fraction out of range.
        BadInput: all rows belong together, so none can be set aside.
    """
    if not math.isfinite(eval_fraction) or not 0 < eval_fraction < 1:
        raise InvalidArgument(
            f"eval_fraction is {eval_fraction}; it lies between 0 and 1, without them.", next="Use 0.1."
        )
    store = DatasetStore(workspace)
    parent = store.get(dataset_id)
    held_out = held_out_rows(store.rows(dataset_id), eval_fraction, seed)
    if not held_out:
        raise BadInput(
            f"The {parent.rows} rows of {dataset_id} cannot be split: all come from one section or repeat one another.",
            next="Add rows from other notes, or train with eval_fraction=0.",
        )
    rows = (
        row.model_copy(update={"split": "eval" if number in held_out else "train"})
        for number, row in enumerate(store.rows(dataset_id))
    )
    return store.create(rows, name=parent.name, created_by="split_dataset", parents=[dataset_id])


def held_out_rows(rows: Iterable[Row], eval_fraction: float, seed: int, *, copies_together: bool = True) -> set[int]:
    """The positions of the rows that `split` would set aside; empty when all rows belong together.

    Args:
        rows: in any number and order; their own `split` is not looked at.
        eval_fraction: of the rows, above 0 and below 1.
        copies_together: whether near copies stay on one side, as in `split`; otherwise only sections do.
    """
    groups = _groups(rows, seed, copies_together)
    return _chosen(groups, sum(map(len, groups)), eval_fraction) if len(groups) > 1 else set()


def _groups(rows: Iterable[Row], seed: int, copies_together: bool = True) -> list[list[int]]:
    """Row numbers that must stay together, in the order of their hashes."""
    repeats, sections = Repeats(), _Sections()
    digests: list[bytes] = []
    asked: dict[tuple[tuple[str, str], ...], int] = {}
    same_question: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        if copies_together:
            repeats.add(row)
        sections.add(number, row)
        if row.rejected is not None:
            prompt = tuple((message.role, message.content.strip()) for message in row.messages[:-1])
            same_question.append((asked.setdefault(prompt, number), number))
        digests.append(hashlib.sha256(row_text(row).encode("utf-8")).digest())
    connected = repeats.clusters() if copies_together else Components(len(digests))
    sections.join(connected)
    for first, number in same_question:
        connected.join(first, number)
    members: dict[int, list[int]] = defaultdict(list)
    for number in range(len(digests)):
        members[connected.find(number)].append(number)
    salt = str(seed).encode("ascii")
    keyed = [(_key(salt, (digests[number] for number in group)), group) for group in members.values()]
    return [group for _key, group in sorted(keyed)]


def _key(salt: bytes, digests: Iterator[bytes]) -> bytes:
    return hashlib.sha256(salt + b":" + b"".join(sorted(digests))).digest()


def _chosen(groups: list[list[int]], rows: int, eval_fraction: float) -> set[int]:
    """The rows of the groups that are set aside: never all, never none."""
    wanted = max(1, round(rows * eval_fraction))
    chosen: set[int] = set()
    for group in groups:
        if len(chosen) + len(group) <= min(wanted, rows - 1):
            chosen.update(group)
    # Every group is larger than what was asked for: the smallest is the closest there is.
    return chosen or set(min(groups, key=len))


class _Sections:
    """Which rows come from the same lines or under the same heading of a file."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
        self._headings: dict[tuple[str, str, str], int] = {}
        self._same_heading: list[tuple[int, int]] = []

    def add(self, number: int, row: Row) -> None:
        source = row.source
        if source is None:
            return
        self._spans[(source.path, source.sha256)].append((source.first_line, source.last_line, number))
        heading = _heading(row, source)
        if heading is not None:
            first = self._headings.setdefault(heading, number)
            if first != number:
                self._same_heading.append((first, number))

    def join(self, connected: Components) -> None:
        """Connect rows of overlapping spans, and of equal headings."""
        for first, number in self._same_heading:
            connected.join(first, number)
        for spans in self._spans.values():
            spans.sort()
            _first, reach, holder = spans[0]
            for first_line, last_line, number in spans[1:]:
                if first_line <= reach:
                    connected.join(holder, number)
                if last_line > reach:
                    reach, holder = last_line, number


def _heading(row: Row, source: Source) -> tuple[str, str, str] | None:
    heading = row.meta.get("heading")
    if not heading:
        return None
    return (source.path, source.sha256, "\0".join(heading) if isinstance(heading, list) else str(heading))
