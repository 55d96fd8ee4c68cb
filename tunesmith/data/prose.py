"""Blocks out of lines that have no markup: plain text, and fences that hold prose."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunesmith.data.code_lines import code_runs
from tunesmith.data.sections import Block
from tunesmith.data.text import is_linked, unwrap

_LEAD = re.compile(r"(?![-*+•·\d│├└┌|]).{2,60}[:：]$")
_CLOSES_SENTENCE = re.compile(r"[。.!?！？；;]$")


def text_blocks(lines: Sequence[str], first_line: int) -> list[Block]:
    """Paragraphs and code. A blank line ends a paragraph, and so does a line that introduces what follows ("…:")."""
    return [
        block
        for start, past, code in code_runs(lines)
        for block in _blocks_of_run(lines, start, past, code, first_line)
    ]


def _blocks_of_run(lines: Sequence[str], start: int, past: int, code: bool, first_line: int) -> Iterator[Block]:
    if code:
        body = [line.rstrip() for line in lines[start:past]]
        while body and not body[-1]:
            body.pop()
        while body and not body[0]:
            body.pop(0)
            start += 1
        if body:
            source = "\n".join(body)
            yield Block(
                "code",
                first_line + start,
                first_line + start + len(body) - 1,
                source,
                code=source,
                code_line=first_line + start,
            )
        return
    index = start
    while index < past:
        if not lines[index].strip():
            index += 1
            continue
        end = index + 1
        while end < past and lines[end].strip() and not _LEAD.fullmatch(lines[end].strip()):
            end += 1
        yield _paragraph(lines[index:end], first_line + index)
        index = end


def _paragraph(lines: Sequence[str], first_line: int) -> Block:
    stripped = [line.rstrip() for line in lines]
    text = "\n".join(stripped)
    # Hard-wrapped prose is joined; lines that stand alone (lists, trees, pasted pages) stay lines.
    wrapped = len(stripped) > 1 and not any(_CLOSES_SENTENCE.search(line) for line in stripped[:-1])
    return Block(
        "paragraph",
        first_line,
        first_line + len(lines) - 1,
        (unwrap(text) if wrapped else text).strip("\n"),
        lines=tuple((first_line + number, line.strip()) for number, line in enumerate(stripped)),
        linked=is_linked(text),
    )
