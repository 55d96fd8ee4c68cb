"""Dropping and mending rows: only those that a check names, and nothing else in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tunesmith.data.checks.findings import CHECKS, LONG_OUTPUT_CHARS, check_names, default_drop
from tunesmith.data.checks.private import REDACTABLE, redact
from tunesmith.data.checks.repeats import Repeats
from tunesmith.data.checks.rows import check_row
from tunesmith.data.cutting import cut_at_sentence
from tunesmith.data.near_duplicates import DEFAULT_THRESHOLD, MIN_THRESHOLD
from tunesmith.data.records import Message, Row
from tunesmith.data.results import CleanResult
from tunesmith.data.store import DatasetStore
from tunesmith.errors import EmptyInput, InvalidArgument, NotSupported
from tunesmith.workspace import Workspace

OnProgress = Callable[[str, int, int], None]

DEFAULT_TRUNCATE_CHARS = 1500
MIN_TRUNCATE_CHARS = 50
PROGRESS_ROWS = 500


def clean(
    workspace: Workspace,
    dataset_id: str,
    *,
    drop: Sequence[str] | None = None,
    truncate_chars: int | None = DEFAULT_TRUNCATE_CHARS,
    redact: Sequence[str] = REDACTABLE,
    near_duplicate_threshold: float = DEFAULT_THRESHOLD,
    on_progress: OnProgress | None = None,
) -> CleanResult:
    """A new dataset without the rows that checks named, and with others mended.

    First rows are dropped for what they are alone, then the ones that stay are
    redacted and truncated, then they are compared with one another: what remains
    holds no duplicate that editing made.

    Args:
        drop: names of checks; default: every check of severity error that sees one row
            alone, and both kinds of duplicates, without those that `redact` mends.
        truncate_chars: answers that long_output names (over 2,000 characters) are cut at
            the end of a sentence within this many; a limit below 1,500 is taken at its word
            for every answer. None: no cutting.
        redact: pii and secret, either or none; found values become `[EMAIL]`, `[API_KEY]` …
        near_duplicate_threshold: Jaccard similarity of 5-character shingles, 0.5 to 1.
        on_progress: called with a message, rows done and rows in all; may raise to stop.

    Raises:
        NotFound, InvalidArgument: as `DatasetStore.get`; an unknown name, a number out of range.
        NotSupported: a check that needs a base model.
        EmptyInput: no row would remain; nothing is written.
    """
    names, redacted = _checked(drop, truncate_chars, redact, near_duplicate_threshold)
    store = DatasetStore(workspace)
    parent = store.get(dataset_id)
    tell = on_progress or (lambda _message, _done, _total: None)
    work = _Cleaning(names, truncate_chars, redacted)
    for number, row in enumerate(store.rows(dataset_id)):
        work.add(number, row)
        if number % PROGRESS_ROWS == 0:
            tell("Checking each row", number, parent.rows)
    work.compare(near_duplicate_threshold, lambda message: tell(f"Comparing: {message}", parent.rows, parent.rows))
    if len(work.dropped) == parent.rows:
        counts = ", ".join(f"{check} {count}" for check, count in Counter(work.dropped.values()).most_common())
        raise EmptyInput(
            f"Cleaning would drop all {parent.rows} rows ({counts}); nothing was written.",
            next="Name fewer checks in drop, or mend the source: score_dataset shows what is wrong.",
        )
    dataset = store.create(
        _remaining(store.rows(dataset_id), work), name=parent.name, created_by="clean_dataset", parents=[dataset_id]
    )
    edited = {number: why for number, why in work.why_edited.items() if number not in work.dropped}
    return CleanResult(
        **dict(dataset),
        rows_in=parent.rows,
        kept=dataset.rows,
        dropped=len(work.dropped),
        edited=len(edited),
        by_check=dict(Counter(work.dropped.values()).most_common()),
        edited_by_check=dict(Counter(check for why in edited.values() for check in sorted(why))),
        not_truncated=sum(number not in work.dropped for number in work.uncut),
    )


class _Cleaning:
    """Decides row by row; remembers the numbers of dropped rows and the new text of edited ones."""

    def __init__(self, names: list[str], truncate_chars: int | None, redacted: list[str]) -> None:
        self._row_names = [name for name in names if CHECKS[name].scope == "row"]
        self._group_names = [name for name in names if CHECKS[name].scope == "group"]
        self._truncate_chars = truncate_chars
        self._redacted = redacted
        self._repeats = Repeats()
        self._staying: list[int] = []
        self.dropped: dict[int, str] = {}
        self.edits: dict[int, Row] = {}
        self.why_edited: dict[int, set[str]] = {}
        self.uncut: set[int] = set()

    def add(self, number: int, row: Row) -> None:
        if self._row_names:
            found = {finding.check for finding in check_row(row)}
            named = next((name for name in self._row_names if name in found), None)
            if named is not None:
                self.dropped[number] = named
                return
        edited, why = self._edited(number, row)
        if why:
            self.edits[number] = edited
            self.why_edited[number] = why
        if self._group_names:
            self._staying.append(number)
            self._repeats.add(edited)

    def compare(self, threshold: float, say: Callable[[str], None]) -> None:
        """Drop what the checks that compare rows name. A row counts for the first of them."""
        for name in self._group_names:
            for position in self._named_by(name, threshold, say):
                self.dropped.setdefault(self._staying[position], name)

    def _named_by(self, name: str, threshold: float, say: Callable[[str], None]) -> Iterator[int]:
        if name == "exact_duplicate":
            yield from self._repeats.exact_duplicates()
        elif name == "near_duplicate":
            yield from self._repeats.near_duplicates(threshold, say=say)
            # The same text is the nearest there is: asked to drop near ones, nobody wants to keep these.
            yield from self._repeats.exact_duplicates()
        elif name == "conflicting_answers":
            yield from (position for position, _answers in self._repeats.conflicting())
        elif name == "rejected_missing":
            yield from self._repeats.rejected_missing()
        elif name == "train_eval_leak":
            yield from self._repeats.leaks(threshold, say=say)

    def _edited(self, number: int, row: Row) -> tuple[Row, set[str]]:
        why: set[str] = set()
        messages = [self._edited_message(number, message, why) for message in row.messages]
        rejected = row.rejected
        if rejected is not None:
            rejected = self._edited_message(number, Message(role="assistant", content=rejected), why).content
        meta = _redact_within(row.meta, self._redacted, why) if row.meta and self._redacted else row.meta
        return (row.model_copy(update={"messages": messages, "rejected": rejected, "meta": meta}) if why else row), why

    def _edited_message(self, number: int, message: Message, why: set[str]) -> Message:
        content, checks = redact(message.content, self._redacted) if self._redacted else (message.content, set())
        why |= checks
        if message.role == "assistant" and self._is_too_long(content):
            shorter = cut_at_sentence(content, self._truncate_chars or 0)
            if shorter is None:
                self.uncut.add(number)
            else:
                content = shorter
                why.add("long_output")
        return message if content == message.content else Message(role=message.role, content=content)

    def _is_too_long(self, content: str) -> bool:
        limit = self._truncate_chars
        if limit is None:
            return False
        # Up to 2,000 characters no check complains; cutting such an answer at the usual 1,500 would harm, not mend.
        return len(content) > (limit if limit < DEFAULT_TRUNCATE_CHARS else max(limit, LONG_OUTPUT_CHARS))


def _remaining(rows: Iterator[Row], work: _Cleaning) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number not in work.dropped:
            yield work.edits.get(number, row)


def _redact_within(value: Any, checks: list[str], why: set[str]) -> Any:
    """`value` with every text in it redacted; keys stay."""
    if isinstance(value, str):
        text, found = redact(value, checks)
        why |= found
        return text
    if isinstance(value, dict):
        return {key: _redact_within(item, checks, why) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact_within(item, checks, why) for item in value]
    return value


def _checked(
    drop: Sequence[str] | None, truncate_chars: int | None, redact: Sequence[str], threshold: float
) -> tuple[list[str], list[str]]:
    """The names of checks to drop by, and what to redact.

    Raises:
        InvalidArgument, NotSupported: as `clean`.
    """
    redacted = list(dict.fromkeys(redact))
    for name in redacted:
        if name not in REDACTABLE:
            raise InvalidArgument(
                f"redact: {name[:60]!r} cannot be redacted.",
                next=f"Use any of {', '.join(REDACTABLE)}, or an empty list.",
            )
    names = default_drop(redacted) if drop is None else check_names(drop, "drop")
    for name in names:
        if CHECKS[name].scope == "dataset":
            raise InvalidArgument(
                f"drop: {name!r} speaks of the whole dataset and names no row to drop.", next=CHECKS[name].fix
            )
        if name == "over_max_length":
            raise NotSupported(
                "drop: over_max_length needs a base model to count tokens, which cleaning does not have.",
                next="Use truncate_chars, or drop long_output.",
            )
    if truncate_chars is not None and truncate_chars < MIN_TRUNCATE_CHARS:
        raise InvalidArgument(
            f"truncate_chars is {truncate_chars}; an answer needs at least {MIN_TRUNCATE_CHARS} characters.",
            next=f"Use {MIN_TRUNCATE_CHARS} or more; {DEFAULT_TRUNCATE_CHARS} is usual.",
        )
    if not math.isfinite(threshold) or not MIN_THRESHOLD <= threshold <= 1:
        raise InvalidArgument(
            f"near_duplicate_threshold is {threshold}; it lies between {MIN_THRESHOLD} and 1.",
            next=f"Use {DEFAULT_THRESHOLD}.",
        )
    return names, redacted
