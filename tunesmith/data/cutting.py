"""Making an answer shorter without teaching a model to stop in the middle of a sentence."""

from __future__ import annotations

import re

# After a full stop must come a space: 3.5, v1.2 and example.com are no ends. Common abbreviations are none either.
_SENTENCE_END = re.compile(
    r"[。！？…]+[”’』」）)》]*"
    r"|(?<!\be\.g)(?<!\bi\.e)(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bvs)(?<!\bFig)(?<!\bNo)(?<!^[0-9])(?<!\n[0-9])(?<!\n[0-9]{2})"
    r"[.!?]+[\"'”’)\]*]*(?=\s|\Z)"
)
_LINE_END = re.compile(r"[^\s,，、:：;；(（\-][ \t]*(?=\n)")
_FENCE_LINE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_TABLE_TAIL = re.compile(r"(?:^[ \t]*\|[^\n]*\n?)+\Z", re.MULTILINE)
# An end this early would throw most of the allowed text away; then a line's end will do.
MIN_KEPT_SHARE = 0.5


def cut_at_sentence(text: str, limit: int) -> str | None:
    """The longest beginning of `text` that ends with a sentence, or else a line, within `limit` characters.

    A fenced block or a table that does not fit is left out whole. None when there
    is no such end.
    """
    if len(text) <= limit:
        return text
    head = text[:limit]
    fences = [match.start() for match in _FENCE_LINE.finditer(head)]
    if len(fences) % 2:
        head = head[: fences[-1]]
    elif table := _TABLE_TAIL.search(head):
        head = head[: table.start()]
    room = len(head)
    sentence = _last_end(_SENTENCE_END, text, room, fences)
    if sentence < MIN_KEPT_SHARE * limit:
        sentence = max(sentence, _last_end(_LINE_END, text, room, fences))
    kept = text[:sentence].rstrip()
    return kept or None


def _last_end(pattern: re.Pattern[str], text: str, room: int, fences: list[int]) -> int:
    """The end of the last match that ends within `room` characters and outside of fenced blocks; 0 when none does."""
    last = 0
    for match in pattern.finditer(text, 0, min(len(text), room + 1)):
        inside = sum(fence < match.end() for fence in fences) % 2
        if match.end() <= room and not inside:
            last = match.end()
    closing = [end for start, end in zip(fences[::2], fences[1::2], strict=False) if start < room]
    if closing:
        # The end of a whole fenced block is an end as well.
        line_end = text.find("\n", closing[-1])
        if closing[-1] < room and last < line_end <= room:
            last = line_end
    return last
