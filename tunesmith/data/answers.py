"""Answers out of blocks: whole, never cut inside a sentence, a fence, a table or a list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunesmith.data.sections import Block
from tunesmith.data.text import cut_at_sentence, sentences

_INTRODUCES = re.compile(r"[:：]\s*$")
_ENDED = re.compile(r"[。.!！?？…；;)）\"”」`]\s*$")
_MIN_CUT = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """Text for an answer, the lines it stands on, and whether something was left out of it."""

    text: str
    first_line: int
    last_line: int
    shortened: bool


def compose(blocks: Sequence[Block], limit: int) -> Answer | None:
    """The blocks one after another as far as `limit` characters reach; None when not one fits.

    A paragraph that does not fit is cut at a sentence; what cannot be cut is left out, together with
    the line that introduces it.
    """
    texts: list[str] = []
    used: list[Block] = []
    room = limit
    shortened = False
    for block in blocks:
        separator = 2 if texts else 0
        if len(block.text) + separator <= room:
            texts.append(block.text)
            used.append(block)
            room -= len(block.text) + separator
            continue
        shortened = True
        cut = cut_at_sentence(block.text, room - separator) if block.kind in ("paragraph", "quote") else ""
        if len(cut) >= _MIN_CUT:
            texts.append(cut)
            used.append(block)
            break
        _drop_introduction(texts, used)
        if texts:
            break
    if shortened:
        _drop_introduction(texts, used)
    _drop_promise(texts, used)
    if not texts:
        return None
    return Answer(_joined(texts, used), used[0].first_line, max(block.last_line for block in used), shortened)


def _drop_promise(texts: list[str], used: list[Block]) -> None:
    """Take away a last sentence that promises more ("There are two ways:") where nothing follows."""
    if not texts or used[-1].kind not in ("paragraph", "quote") or not _INTRODUCES.search(texts[-1]):
        return
    kept = texts[-1][: texts[-1].rindex(sentences(texts[-1])[-1])].rstrip()
    if kept:
        texts[-1] = kept
    else:
        texts.pop()
        used.pop()


def introduces(text: str) -> bool:
    """Whether a paragraph leads to what follows: it ends with a colon, or is a few words without an end."""
    return bool(_INTRODUCES.search(text)) or (len(text) <= 50 and not _ENDED.search(text))


def without_introduction(block: Block) -> Block | None:
    """A paragraph without the last line, where that only introduces what follows; None when nothing else is in it."""
    if block.kind != "paragraph" or not _INTRODUCES.search(block.text):
        return block
    rest, newline, _last = block.text.rpartition("\n")
    return replace(block, text=rest, last_line=block.last_line - 1) if newline else None


def _drop_introduction(texts: list[str], used: list[Block]) -> None:
    while texts and used[-1].kind in ("paragraph", "quote") and introduces(texts[-1]):
        rest = texts[-1].rsplit("\n", 1)[0] if "\n" in texts[-1] else ""
        if rest:
            texts[-1] = rest
        else:
            texts.pop()
            used.pop()


def _joined(texts: Sequence[str], used: Sequence[Block]) -> str:
    if all(block.kind == "code" for block in used):
        return "\n\n".join(block.code for block in used)  # nothing but code needs no fence
    return "\n\n".join(texts)
