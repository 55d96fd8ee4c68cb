"""Reading a run's log in bounded pieces: clean, without secrets, in the same time and memory however large it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tunesmith.runs.plain_text import clean, redact_open, unbreakable

READ_LIMIT = 32 * 1024
CONTEXT = 4096  # bytes around a cut that are looked at, so that no key is shown in two halves
LINE_LIMIT = 400
TAIL_CHARACTERS = 6000


@dataclass(frozen=True)
class Piece:
    """A part of a log.

    Attributes:
        text: clean text, at most 32 KiB of UTF-8.
        start, end: the bytes it was made of; `end` is where to go on.
        size: bytes of the log now.
        cut_line: its first line began before `start`.
    """

    text: str
    start: int
    end: int
    size: int
    cut_line: bool


def read(path: Path, offset: int | None = None, *, finished: bool = False) -> Piece:
    """At most 32 KiB of a log. Reading on from `end` again and again gives all of it, no line lost or doubled.

    A piece ends at the end of a line if there is one within reach, and never inside a character, a terminal code or a
    key of a known kind (up to 4 KiB long). A line that is still being written is left for the next read.

    Args:
        offset: byte to read from; None for the end of the log, from the beginning of a line.
        finished: whether nothing more will be written, so that an unfinished last line is read too.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            limit = READ_LIMIT
            while True:
                piece = _piece(file, size, offset, limit, finished)
                if len(piece.text.encode()) <= READ_LIMIT:
                    return piece
                limit //= 2  # what is not text takes up to three times the room when it is shown
    except OSError:  # not there, a folder, or another user's: what cannot be read is no log
        return Piece("", 0, 0, 0, False)


def before(path: Path, byte: int) -> int:
    """Where to read from to get the 32 KiB before `byte`: the beginning of a line where there is one."""
    start = byte - READ_LIMIT
    if start <= 0:
        return 0
    with path.open("rb") as file:
        file.seek(start - 1)
        raw = file.read(READ_LIMIT + 1).decode("latin-1")
    return start - 1 + _begin(raw, 1, len(raw), at_line=True)


def _piece(file: IO[bytes], size: int, offset: int | None, limit: int, finished: bool) -> Piece:
    start = max(0, size - limit) if offset is None else min(offset, size)
    first = max(0, start - CONTEXT)
    file.seek(first)
    raw = file.read(start - first + limit + CONTEXT).decode("latin-1")  # one character a byte
    size = max(size, first + len(raw))  # it may have grown since
    begin, stop = min(start - first, len(raw)), min(start - first + limit, len(raw))
    if start > 0:
        begin = _begin(raw, begin, stop, at_line=offset is None)
    end = _end(raw, begin, stop, more=size - first - stop, finished=finished)
    text = clean(raw[begin:end].encode("latin-1").decode("utf-8", errors="replace"))
    if raw[begin:end].endswith("\r") and text and not text.endswith("\n"):
        text += "\n"  # a state of a progress line that goes on
    cut_line = first + begin > 0 and raw[begin - 1 : begin] not in ("\n", "\r")
    return Piece(text, first + begin, first + end, size, cut_line)


def _begin(raw: str, begin: int, stop: int, *, at_line: bool) -> int:
    """Where a piece from `begin` (1 or more) starts: not inside what must not be torn; with `at_line`, at a line."""
    if at_line:
        line = raw.find("\n", begin - 1, stop - 1)
        line = line if line != -1 else raw.find("\r", begin - 1, stop - 2)
        if line != -1:
            return line + 1
    torn = unbreakable(raw, begin, CONTEXT)
    return min(torn[1], stop) if torn else begin


def _end(raw: str, begin: int, stop: int, *, more: int, finished: bool) -> int:
    """Where a piece that begins at `begin` and may go up to `stop` ends; `more` bytes of the log come after `stop`."""
    if finished and not more:
        return stop
    line = raw.rfind("\n", begin, stop) + 1
    state = raw.rfind("\r", begin, min(stop, len(raw) - 1)) + 1  # what follows is known not to be the rest of \r\n
    if raw[state : state + 1] == "\n":
        state = 0
    if not more:
        return max(line, state, begin)
    if line or state:
        return line or state
    if not finished and more < CONTEXT:
        return begin  # a key may be half written behind `stop`
    position = stop
    while (torn := unbreakable(raw, position, CONTEXT)) and torn[0] > begin:
        position = torn[0]
    return position


def tail(path: Path, lines: int) -> tuple[list[str], int]:
    """The last lines that are not blank, and how many earlier ones were left out.

    Lines are cut at 400 characters and the whole at 6,000. Only the last 32 KiB are counted: when more lies before
    them, that is one line more, so that the number is 0 only if nothing was left out.
    """
    piece = read(path, finished=True)
    text = piece.text if piece.text.endswith("\n") else redact_open(piece.text)
    found = [line for line in text.split("\n") if line and not line.isspace()]
    shown: list[str] = []
    room = TAIL_CHARACTERS
    for number in range(len(found) - 1, max(-1, len(found) - 1 - lines), -1):
        line = _shorten(found[number], cut=piece.cut_line and number == 0)
        room -= len(line)
        if room < 0:
            break
        shown.insert(0, line)
    return shown, len(found) - len(shown) + (piece.start > 0)


def _shorten(line: str, *, cut: bool) -> str:
    if cut:
        return f"(more than {READ_LIMIT // 1024} KiB of this line before) … {line[-LINE_LIMIT:]}"
    return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]} … ({len(line) - LINE_LIMIT} characters more)"
