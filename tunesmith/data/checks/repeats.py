"""Defects seen by comparing rows: duplicates, near-duplicates, conflicting answers, evaluation rows seen in training.

A row's text for comparison is all its messages, trimmed, one after another, and the
rejected answer where it has one. Rows are known by their number in the order they were added.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from hashlib import blake2b

from tunesmith.data.near_duplicates import DEFAULT_THRESHOLD, Components, similar_across, similar_pairs
from tunesmith.data.records import Row

_FINAL = " .?!。？！…"  # the same question with and without its mark is the same question

Say = Callable[[str], None] | None


def row_text(row: Row) -> str:
    """The text by which rows are compared."""
    texts = [message.content for message in row.messages]
    if row.rejected is not None:
        texts.append(row.rejected)
    return "\n".join(text.strip() for text in texts)


class Repeats:
    """Rows, kept as far as comparing them needs it: their distinct texts and digests of their questions."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._text_of: list[int] = []
        self._split_of: list[str | None] = []
        self._outside: set[int] = set()
        self._single: list[int] = []
        self._answers: dict[bytes, dict[bytes, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._text_of)

    def add(self, row: Row) -> None:
        """Take the next row."""
        number = len(self._text_of)
        self._text_of.append(self._number(row_text(row)))
        self._split_of.append(row.split)
        if row.rejected is None:
            self._single.append(number)
        asked = " ".join(" ".join(message.content for message in row.messages[:-1]).split()).casefold()
        question = asked.rstrip(_FINAL) or asked
        if question and row.messages[-1].role == "assistant":
            answer = row.messages[-1].content.strip()
            if row.rejected is not None:
                # Several pairs of answers to one question are usual; one pair preferred both ways is not.
                question += "\0" + "\0".join(sorted((answer, row.rejected.strip())))
            self._answers.setdefault(_digest(question), {}).setdefault(_digest(answer), []).append(number)

    def add_outside(self, row: Row) -> None:
        """Take a row of another dataset, which ours should not repeat."""
        self._outside.add(self._number(row_text(row)))

    def exact_duplicates(self, among: Collection[int] | None = None) -> dict[int, int]:
        """Rows whose text an earlier one has, with the first that has it."""
        first: dict[int, int] = {}
        found: dict[int, int] = {}
        for number in range(len(self)) if among is None else sorted(among):
            original = first.setdefault(self._text_of[number], number)
            if original != number:
                found[number] = original
        return found

    def near_duplicates(
        self, threshold: float = DEFAULT_THRESHOLD, *, among: Collection[int] | None = None, say: Say = None
    ) -> dict[int, int]:
        """Rows whose text is similar to that of an earlier row, with such a row; exact duplicates left out."""
        return {later: earlier for earlier, later in self._similar(threshold, among, say)}

    def near_duplicates_without(self, near: dict[int, int], dropped: Collection[int]) -> set[int]:
        """`near_duplicates` as they are when some rows are dropped first. Compares only what they touched."""
        if not dropped:
            return set(near)
        clusters = Components(len(self))
        for later, earlier in (near | self.exact_duplicates()).items():
            clusters.join(earlier, later)
        touched = {clusters.find(number) for number in dropped}
        again = [number for number in range(len(self)) if clusters.find(number) in touched and number not in dropped]
        found = {number for number in near if clusters.find(number) not in touched}
        return found | set(self.near_duplicates(among=again)) if len(again) > 1 else found

    def conflicting(self) -> Iterator[tuple[int, int]]:
        """Rows whose question has different answers, with the number of answers."""
        for answers in self._answers.values():
            if len(answers) > 1:
                for numbers in answers.values():
                    for number in numbers:
                        yield number, len(answers)

    def rejected_missing(self) -> list[int]:
        """Rows without a rejected answer where others have one."""
        return self._single if len(self._single) < len(self) else []

    def leaks(self, threshold: float = DEFAULT_THRESHOLD, *, say: Say = None) -> set[int]:
        """Evaluation rows that are the same as or similar to a training row, and rows similar to outside ones."""
        texts = list(self._texts)
        in_train, in_eval = set[int](), set[int]()
        for text, split in zip(self._text_of, self._split_of, strict=True):
            if split is not None:
                (in_train if split == "train" else in_eval).add(text)
        leaking = in_eval & in_train
        if in_eval and in_train:
            leaking |= _across(texts, in_eval - leaking, in_train, threshold, say)
        seen_outside = self._outside & set(self._text_of)
        if self._outside:
            seen_outside |= _across(texts, set(self._text_of) - seen_outside, self._outside, threshold, say)
        return {
            number
            for number, text in enumerate(self._text_of)
            if text in seen_outside or (text in leaking and self._split_of[number] == "eval")
        }

    def clusters(self, threshold: float = DEFAULT_THRESHOLD, *, say: Say = None) -> Components:
        """The rows, connected where they are the same or similar."""
        connected = Components(len(self))
        for number, original in self.exact_duplicates().items():
            connected.join(original, number)
        for earlier, later in self._similar(threshold, None, say):
            connected.join(earlier, later)
        return connected

    def _similar(self, threshold: float, among: Collection[int] | None, say: Say) -> Iterator[tuple[int, int]]:
        numbers = range(len(self)) if among is None else sorted(among)
        first_row: dict[int, int] = {}
        for number in numbers:
            first_row.setdefault(self._text_of[number], number)
        all_texts = list(self._texts)
        chosen = list(first_row)
        rows = list(first_row.values())
        for earlier, later in similar_pairs([all_texts[text] for text in chosen], threshold, on_progress=say):
            yield rows[earlier], rows[later]

    def _number(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))


def _across(texts: list[str], asking: set[int], answering: set[int], threshold: float, say: Say) -> set[int]:
    numbers = sorted(asking | answering)
    found = similar_across(
        [texts[number] for number in numbers],
        [number in asking for number in numbers],
        [number in answering for number in numbers],
        threshold,
        on_progress=say,
    )
    return {numbers[position] for position in found}


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
