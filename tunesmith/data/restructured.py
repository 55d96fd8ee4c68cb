"""reStructuredText to headings and blocks, without docutils: titles, literal blocks, directives, lists, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tunesmith.data.code_lines import code_share
from tunesmith.data.markup import PROSE_FENCES, fenced, role_text, table_block, term_of
from tunesmith.data.pointers import without_pointing
from tunesmith.data.prose import text_blocks
from tunesmith.data.sections import Block, Heading, Item, pointer
from tunesmith.data.text import unwrap, width

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"\.\.\s+([\w:-]+?)\s?::+\s*(.*)$")
_EXPLICIT = re.compile(r"\.\.(?:\s|$)")
_OPTION = re.compile(r":[\w-]+:(?:\s|$)")
_CODE_NAMES = "code code-block sourcecode highlight parsed-literal prompt doctest testcode ipython"
_TEXT_NAMES = (
    "note warning tip hint important caution attention danger error admonition versionadded versionchanged"
    " deprecated topic"
)
_CODE_DIRECTIVES, _TEXT_DIRECTIVES = frozenset(_CODE_NAMES.split()), frozenset(_TEXT_NAMES.split())
_FIELD = re.compile(r":([^:\n]{1,60}):\s+(\S.*)")
_ITEM = re.compile(r"(?:[-*+•]|\d{1,3}[.)]|#\.)\s+\S")
_GRID = re.compile(r"\+(?:[-=]+\+)+\s*$")
_SIMPLE = re.compile(r"=+(?:\s+=+)+\s*$")
_ROLE = re.compile(r":[\w+.-]+(?::[\w+.-]+)?:`([^`]+)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^<>`]+>`__?|`([^`]+)`__?")
_LITERAL = re.compile(r"``(.+?)``")
_STRONG = re.compile(r"\*\*(\S(?:.*?\S)?)\*\*")
_EMPHASIS = re.compile(r"(?<![\w*])\*(\S(?:[^*]*?\S)?)\*(?![\w*])")
_WORD_LINK = re.compile(r"\b(\w+)__?(?=[\s.,;:)]|$)")
_SUBSTITUTION = re.compile(r"\|(\w[\w ]*)\|_?")
_BLANK = re.compile(r"[ ]+$", re.MULTILINE)
_MAX_DEPTH = 8
_FOOTNOTE = re.compile(r"\s?\[[#*\w]+\]_")


def read_rst(text: str, first_line: int = 1) -> tuple[str, list[Heading | Block]]:
    """Title (the first heading), headings and blocks in order."""
    reader = _Reader(text.split("\n"), first_line)
    reader.read()
    title = next((part.text for part in reader.parts if isinstance(part, Heading)), "")
    return title, reader.parts


def plain_rst(text: str) -> str:
    """Inline marks to text; literals become code spans. As many lines as before."""
    if "`" in text:
        text = _ROLE.sub(lambda match: role_text(match[1]), text)
        text = _LITERAL.sub("\x00\\1\x00", text)
        text = _LINK.sub(lambda match: match[1] or match[2], text)
        text = text.replace("\x00", "`")
    if "*" in text:
        text = _EMPHASIS.sub(r"\1", _STRONG.sub(r"\1", text))
    if "_" in text:
        text = _WORD_LINK.sub(r"\1", _FOOTNOTE.sub("", text))
    return _SUBSTITUTION.sub(r"\1", text) if "|" in text else text


class _Reader:
    def __init__(self, lines: list[str], first_line: int, depth: int = 0) -> None:
        self.lines = [line.expandtabs(8).rstrip() for line in lines] if depth == 0 else lines
        self._depth = depth
        self.offset = first_line
        self.parts: list[Heading | Block] = []
        self._levels: list[str] = []

    def read(self) -> None:
        index = 0
        while index < len(self.lines):
            index = self._one(index)

    def _one(self, index: int) -> int:
        line = self.lines[index]
        if not line.strip():
            return index + 1
        past = self._heading(index)
        if past:
            return past
        if line.startswith(" "):
            return self._indented_quote(index)
        if _EXPLICIT.match(line):
            return self._explicit(index)
        if _GRID.match(line) or _SIMPLE.match(line):
            return self._table(index)
        if _ITEM.match(line):
            return self._list(index)
        return self._paragraph(index)

    def _heading(self, index: int) -> int:
        """The line past a heading that begins at `index`, or 0."""
        lines = self.lines
        over = _ADORNMENT.fullmatch(lines[index])
        if over and index + 2 < len(lines):
            under, title = _ADORNMENT.fullmatch(lines[index + 2]), lines[index + 1].strip()
            if title and under and under[1] == over[1] and width(title) <= len(lines[index]):
                return self._add_heading(title, over[1] * 2, index + 1, index + 3)
            return 0
        title = lines[index]
        if over or index + 1 >= len(lines) or title.startswith(" "):
            return 0
        under = _ADORNMENT.fullmatch(lines[index + 1])
        alone = index == 0 or not lines[index - 1].strip() or bool(_EXPLICIT.match(lines[index - 1]))
        if under and alone and len(lines[index + 1]) >= width(title) - 1:
            return self._add_heading(title, under[1], index, index + 2)
        return 0

    def _add_heading(self, title: str, style: str, line: int, past: int) -> int:
        if style not in self._levels:
            self._levels.append(style)
        level = min(self._levels.index(style) + 1, 6)
        self.parts.append(Heading(plain_rst(title).replace("`", ""), level, line + self.offset))
        return past

    def _indented(self, index: int) -> tuple[int, int]:
        """First and past-the-last line of the indented text at or after `index` (blank lines inside belong to it)."""
        first = index
        while first < len(self.lines) and not self.lines[first].strip():
            first += 1
        past = end = first
        while past < len(self.lines) and (not self.lines[past].strip() or self.lines[past].startswith(" ")):
            past += 1
            if self.lines[past - 1].strip():
                end = past
        return first, end

    def _explicit(self, index: int) -> int:
        """A directive, comment, target or footnote."""
        match = _DIRECTIVE.match(self.lines[index])
        first, past = self._indented(index + 1)
        if first > index + 1 and not match:
            past = index + 1  # a target or comment of one line, then a quotation
        name = match[1].split(":")[-1].lower() if match else ""
        while first < past and _OPTION.match(self.lines[first].strip()):
            first += 1
        if match and name in _CODE_DIRECTIVES:
            self._code(first, past, match[2].split()[0].lower() if match[2].split() else "")
        elif match and name in _TEXT_DIRECTIVES:
            self._note(index, first, past, match[2].strip() if "version" not in name else "")
        elif match:
            self.parts.append(pointer(index + self.offset, max(past, index + 1) + self.offset - 1))
        return max(past, index + 1)

    def _body(self, first: int, past: int) -> str:
        """Indented lines as text, what stands in them read by its own structure."""
        lines = _dedented(self.lines[first:past])
        if self._depth >= _MAX_DEPTH:
            return "\n\n".join(plain_rst(piece) for piece in _paragraphs([line.strip() for line in lines]))
        inner = _Reader(lines, first + self.offset, self._depth + 1)
        inner.read()
        return "\n\n".join(part.text for part in inner.parts if part.text)

    def _note(self, index: int, first: int, past: int, argument: str) -> None:
        pieces = ([plain_rst(argument)] if argument else []) + [self._body(first, past)]
        text = "\n\n".join(piece for piece in pieces if piece)
        if any(char.isalnum() for char in text):
            self.parts.append(Block("quote", index + self.offset, max(past, index + 1) + self.offset - 1, text))

    def _code(self, first: int, past: int, language: str) -> None:
        while first < past and not self.lines[first].strip():
            first += 1
        if first >= past:
            return
        lines = _dedented(self.lines[first:past])
        source = "\n".join(lines)
        if language in PROSE_FENCES and code_share(lines) < 0.25:
            self.parts += text_blocks(lines, first + self.offset)
            return
        span = (first + self.offset, past + self.offset - 1)
        self.parts.append(
            Block("code", *span, fenced(source, language), code=source, language=language, code_line=span[0])
        )

    def _indented_quote(self, index: int) -> int:
        first, past = self._indented(index)
        text = self._body(first, past)
        if any(char.isalnum() for char in text):
            self.parts.append(Block("quote", first + self.offset, past + self.offset - 1, text))
        return max(past, index + 1)

    def _paragraph(self, index: int) -> int:
        past = index
        while past < len(self.lines) and self.lines[past].strip():
            if past > index and (self._begins_heading(past) or _EXPLICIT.match(self.lines[past])):
                break
            past += 1
        lines = self.lines[index:past]
        if len(lines) >= 2 and not lines[0].startswith(" ") and all(line.startswith(" ") for line in lines[1:]):
            return self._terms(index)
        literal = lines[-1].endswith("::")
        if literal:
            lines = [*lines[:-1], lines[-1][:-2].rstrip() + ":" if lines[-1][:-2].strip() else ""]
        self._add_paragraph(index, past, [line.strip() for line in lines])
        if literal:
            first, end = self._indented(past)
            self._code(first, end, "")
            return max(end, past)
        return past

    def _begins_heading(self, index: int) -> bool:
        return index + 1 < len(self.lines) and not self.lines[index - 1].strip() and self._heading(index) > 0

    def _add_paragraph(self, first: int, past: int, lines: Sequence[str]) -> None:
        raw = without_pointing("\n".join(line for line in lines if line))
        text = unwrap(plain_rst(raw), raw).strip("\n")
        if any(char.isalnum() for char in text) and not all(_FIELD.match(line) for line in lines if line):
            numbered = tuple((first + self.offset + number, plain_rst(line)) for number, line in enumerate(lines))
            self.parts.append(Block("paragraph", first + self.offset, past + self.offset - 1, text, lines=numbered))
        elif any(lines):
            self.parts.append(pointer(first + self.offset, past + self.offset - 1))

    def _terms(self, index: int) -> int:
        """A definition list: a term, and its meaning indented under it."""
        items: list[Item] = []
        position = index
        while (
            position + 1 < len(self.lines)
            and self.lines[position].strip()
            and not self.lines[position].startswith(" ")
            and self.lines[position + 1].startswith(" ")
        ):
            first, past = self._indented(position + 1)
            term = plain_rst(self.lines[position].split(" : ")[0]).replace("`", "").strip()
            meaning = self._body(first, past)
            if meaning:
                items.append(
                    Item(position + self.offset, past + self.offset - 1, f"{term}: {meaning}", term, meaning, True)
                )
            position = past
            while position < len(self.lines) and not self.lines[position].strip():
                position += 1
        if items:
            text = "\n".join(item.text for item in items)
            self.parts.append(Block("terms", index + self.offset, items[-1].last_line, text, items=tuple(items)))
        return position

    def _list(self, index: int) -> int:
        starts: list[int] = []
        past = end = index
        while past < len(self.lines):
            line = self.lines[past]
            if _ITEM.match(line):
                starts.append(past)
            elif line.strip() and not line.startswith(" "):
                break
            past += 1
            end = past if line.strip() else end
        items: list[Item] = []
        written: list[str] = []
        for start, stop in zip(starts, [*starts[1:], end], strict=True):
            mark = re.match(r"\S+\s+", self.lines[start])
            indent = mark.end() if mark else 2
            self.lines[start] = " " * indent + self.lines[start][indent:]
            last = max(number for number in range(start, stop) if self.lines[number].strip())
            text = self._body(start, last + 1)
            if text:
                raw = "\n".join(line[indent:] for line in self.lines[start : last + 1])
                term = term_of(raw.replace("``", "`"))
                items.append(Item(start + self.offset, last + self.offset, text, *term))
                sign = mark.group().strip() if mark and mark.group()[0].isdigit() else "-"
                written.append(f"{sign} " + text.replace("\n", "\n" + " " * (len(sign) + 1)))
        if items:
            loose = "\n\n" if any("\n\n" in item.text for item in items) else "\n"
            text = loose.join(_BLANK.sub("", piece) for piece in written)
            self.parts.append(Block("list", index + self.offset, end + self.offset - 1, text, items=tuple(items)))
        return past

    def _table(self, index: int) -> int:
        past = index
        while past < len(self.lines) and self.lines[past].strip():
            past += 1
        lines = self.lines[index:past]
        rows = _grid_rows(lines) if _GRID.match(lines[0]) else _simple_rows(lines)
        items = [
            Item(index + number + self.offset, index + number + self.offset, "", cells=tuple(map(plain_rst, cells)))
            for number, cells in rows
        ]
        block = table_block(items, index + self.offset, past + self.offset - 1)
        self.parts += [block] if block else []
        return past


def _grid_rows(lines: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Rows of a grid table as (line, cells); a table with spanning cells has none."""
    edges = [position for position, char in enumerate(lines[0]) if char == "+"]
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines):
        if _GRID.match(line):
            rows.append((number + 1, [""] * (len(edges) - 1)))
            continue
        if not rows or any(position >= len(line) or line[position] != "|" for position in edges):
            return []
        for column, (left, right) in enumerate(pairwise(edges)):
            rows[-1][1][column] = f"{rows[-1][1][column]} {line[left + 1 : right].strip()}".strip()
    return [row for row in rows if any(row[1])]


def _simple_rows(lines: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Rows of a simple table as (line, cells)."""
    starts = [match.start() for match in re.finditer(r"=+", lines[0])]
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines):
        if _SIMPLE.match(line) or re.fullmatch(r"[-\s]+", line):
            continue
        cells = [line[left:right].strip() for left, right in zip(starts, [*starts[1:], None], strict=True)]
        if not cells[0] and rows:  # a row goes on
            rows[-1] = (rows[-1][0], [f"{a} {b}".strip() for a, b in zip(rows[-1][1], cells, strict=True)])
        else:
            rows.append((number, cells))
    return rows


def _paragraphs(lines: Sequence[str]) -> list[str]:
    found = re.split(r"\n\s*\n", "\n".join(lines).strip())
    return [unwrap(piece) for piece in found if piece.strip()]


def _dedented(lines: Sequence[str]) -> list[str]:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[indent:] for line in lines]
