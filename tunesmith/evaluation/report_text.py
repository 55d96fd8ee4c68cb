"""Text from models, rows and endpoints as it is shown in a report: all of it, and nothing that acts on the reader."""

from __future__ import annotations

import re

from tunesmith.evaluation.records import Comparison, Interval

VERDICTS = {"better": "better", "worse": "worse", "no_evidence": "no evidence of a difference"}
# Terminal codes, and control characters of both sets; tab and newline stay.
_CONTROL = re.compile(
    r"(?:\x1b\[|\x9b)[0-9;?]*[ -/]*[@-~]|\x1b[\]P^_X].*?(?:\x1b\\|\x07)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
# What turns the direction of text around, and invisible tag characters: shown by name, so that nothing hides.
_UNSEEN = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` without terminal codes and control characters, lines kept, hidden characters shown by number."""
    plain = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    plain = _UNSEEN.sub(lambda found: f"[U+{ord(found.group()):04X}]", plain)
    return _SURROGATE.sub("\ufffd", plain)


def room_for_answers(count: int) -> int:
    """Characters of each answer that a report shows: a file of some megabytes opens on any machine."""
    return max(1_000, min(40_000, 8_000_000 // max(1, count)))


def cut(text: str, room: int) -> tuple[str, int]:
    """The beginning of a text and how many characters are left out."""
    return (text, 0) if len(text) <= room else (text[:room], len(text) - room)


def headline(comparison: Comparison) -> str:
    """The verdict in one line."""
    verdict = comparison.verdict
    return f"{verdict.candidate} against {verdict.baseline}: {VERDICTS[verdict.answer]}"


def interval(value: Interval | None, form: str) -> str:
    """A mean with its interval, or a dash."""
    if value is None:
        return "–"
    return f"{form.format(value.mean)} [{form.format(value.low)}, {form.format(value.high)}]"


def number(value: float | None, form: str) -> str:
    """A number, or a dash."""
    return "–" if value is None else form.format(value)


def p_text(value: float | None) -> str:
    """A p-value for people."""
    if value is None:
        return "–"
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
