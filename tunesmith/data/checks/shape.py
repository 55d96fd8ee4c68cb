"""Defects seen in a row's outline: what is missing, too short, too long or out of order."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunesmith.data.checks.findings import LONG_OUTPUT_CHARS, SHORT_OUTPUT_CHARS, Finding
from tunesmith.data.records import Row

_UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad"  # zero-width characters and soft hyphens: blank to a reader
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def shape_findings(row: Row, instruction: str, output: str) -> Iterator[Finding]:
    """empty_instruction, empty_output, short_output, long_output, output_equals_instruction, format_inconsistent,
    empty_rejected, rejected_equals_chosen.
    """
    question, answer = _seen(instruction), _seen(output)
    if not question:
        yield Finding("empty_instruction", "The question is empty.")
    if not answer:
        yield Finding("empty_output", "The answer is empty.")
    elif len(answer) < SHORT_OUTPUT_CHARS:
        yield Finding("short_output", f"The answer has fewer than {SHORT_OUTPUT_CHARS} characters.")
    longest = max((len(message.content) for message in row.messages if message.role == "assistant"), default=0)
    if longest > LONG_OUTPUT_CHARS:
        yield Finding("long_output", f"An answer has {longest:,} characters, more than {LONG_OUTPUT_CHARS:,}.")
    alike = abs(len(question) - len(answer)) <= max(8, len(question) // 4)
    if question and (question == answer or (alike and _spoken(question) == _spoken(answer) != "")):
        yield Finding("output_equals_instruction", "The answer repeats the question.")
    if row.rejected is not None:
        rejected = _seen(row.rejected)
        if not rejected:
            yield Finding("empty_rejected", "The rejected answer is empty.")
        elif " ".join(rejected.split()) == " ".join(answer.split()):
            yield Finding("rejected_equals_chosen", "The rejected answer is the chosen one.")
    if problem := _disorder([message.role for message in row.messages]):
        yield Finding("format_inconsistent", problem)


def _seen(text: str) -> str:
    text = text.strip()
    return text.strip(_UNSEEN).strip() if text[:1] in _UNSEEN or text[-1:] in _UNSEEN else text


def _spoken(text: str) -> str:
    """Letters and digits only: what is left of a text when case, spaces and punctuation are not looked at."""
    return _BETWEEN_WORDS.sub("", text).casefold()


def _disorder(roles: list[str]) -> str | None:
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if "system" in turns:
        return "A system message stands after the conversation began."
    if not turns or turns[-1] != "assistant":
        return "The conversation does not end with an answer."
    if any(role != ("user", "assistant")[number % 2] for number, role in enumerate(turns)):
        return "User and assistant do not take turns."
    return None
