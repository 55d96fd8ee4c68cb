"""Where in a row the offending part stands, for people who look at it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.data.checks.encoding import damaged_part
from tunesmith.data.checks.private import REDACTABLE, find_private
from tunesmith.data.checks.wording import offending_part
from tunesmith.data.records import Row

_END_CHARS = 40


class Mark(NamedTuple):
    """Characters `start` to `end` (excluded) of a text."""

    start: int
    end: int


def marks(row: Row, check: str) -> Iterator[tuple[str, str, list[Mark]]]:
    """Role, text and marks of each message that is worth showing for a finding of `check`.

    What is private or secret is shown as its placeholder, whatever the check is about: reports get passed around.
    """
    messages = [message for message in row.messages if message.role != "system"] or row.messages
    if len(messages) > 2:
        shown = [message for message in messages if check in REDACTABLE and find_private(message.content)]
        messages = (shown or messages[-2:])[:4]
    for message in messages:
        text, placeholders = _without_private(message.content)
        if check in REDACTABLE:
            yield message.role, text, placeholders
        else:
            yield message.role, text, list(_marks_of(text, check, message.role))


def _without_private(text: str) -> tuple[str, list[Mark]]:
    pieces: list[str] = []
    found: list[Mark] = []
    at = length = 0
    for each in find_private(text):
        placeholder = f"[{each.span.kind}]"
        before = text[at : each.span.start]
        length += len(before)
        found.append(Mark(length, length + len(placeholder)))
        length += len(placeholder)
        pieces += [before, placeholder]
        at = each.span.end
    return "".join([*pieces, text[at:]]), found


def _marks_of(text: str, check: str, role: str) -> Iterator[Mark]:
    if check == "truncated_output" and role == "assistant":
        end = len(text.rstrip())
        yield Mark(max(text.rfind("\n", 0, end) + 1, end - _END_CHARS), end)
    elif check == "encoding_damage":
        yield from (Mark(*span) for span in damaged_part(text))
    elif check in ("placeholder", "markdown_residue") and (role == "assistant" or check == "placeholder"):
        yield from (Mark(*span) for span in offending_part(text, check))
    elif check == "language_mismatch" and role == "assistant":
        yield Mark(0, min(len(text), 2 * _END_CHARS))
