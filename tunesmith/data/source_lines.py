"""Lines of a list or quote, as they are written and as text, kept one for one."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.data.text import unwrap

GONE = "\x02"  # stands for a line of which nothing was left


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a list or quote: as written, as text, and which of them (by number) are code."""

    source: list[str]
    plain: list[str]
    code: set[int]

    def joined(self, start: int, end: int, indent: int = 0) -> str:
        """Some of the lines, outdented after the first, hard-wrapped ones joined except in code."""
        pieces: list[str] = []
        for run, is_code in runs(end - start, {number - start for number in self.code} if self.code else self.code):
            lines = self.plain[start + run.start : start + run.stop]
            if indent:
                lines = [outdented(line, indent) for line in lines]
                if run.start == 0 and lines[0] != GONE:
                    lines[0] = self.plain[start][indent:]
            source = self.source[start + run.start : start + run.stop]
            if GONE in lines:
                source = [written for written, line in zip(source, lines, strict=True) if line != GONE]
                lines = [line for line in lines if line != GONE]
            text = "\n".join(lines)
            pieces.append(text if is_code else unwrap(text, "\n".join(source)))
        return "\n".join(pieces)


def runs(length: int, code: set[int]) -> list[tuple[slice, bool]]:
    """The numbers below `length` as slices that are all code or all not."""
    if not code:
        return [(slice(0, length), False)]
    found: list[tuple[slice, bool]] = []
    start = 0
    for number in range(1, length + 1):
        if number == length or (number in code) != (start in code):
            found.append((slice(start, number), start in code))
            start = number
    return found


def dedented(lines: list[str]) -> list[str]:
    """Lines without the indentation of the first."""
    indent = len(lines[0]) - len(lines[0].lstrip())
    return [outdented(line, indent) for line in lines]


def outdented(line: str, indent: int) -> str:
    """A line without its first `indent` blanks, as far as they are blanks."""
    cut = 0
    while cut < indent and cut < len(line) and line[cut] in " \t":
        cut += 1
    return line[cut:]
