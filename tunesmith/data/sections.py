"""A document as sections: a heading, its parents, its own body as blocks, and their lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from tunesmith.data.documents import Document

_OUTLINE_NUMBER = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,4})\s+(?=[^\W\d_]|[`\"“「])")

BlockKind = Literal["paragraph", "list", "terms", "code", "table", "quote", "details"]


# Not frozen, though nothing changes them: there are a hundred thousand in a folder, and freezing makes each three times
# as slow to build.
@dataclass(slots=True)
class Item:
    """One entry of a list, or one row of a table.

    Attributes:
        first_line, last_line: lines of the document, from 1.
        text: the entry without its marker, links as text.
        term: what the entry opens with in bold, code or before a dash, or an empty string.
        meaning: what follows the term.
        cells: the cells of a table's row, else empty.
        marked: the term stands in bold or code, or is one by its markup; not only before a colon or dash.
    """

    first_line: int
    last_line: int
    text: str
    term: str = ""
    meaning: str = ""
    marked: bool = False
    cells: tuple[str, ...] = ()


@dataclass(slots=True)
class Block:
    """A paragraph, list, table, piece of code …: what an answer is made of.

    Attributes:
        kind: `terms` is a list of definitions (Markdown's or HTML's), `details` a folded question with its answer.
        first_line, last_line: lines of the document, from 1.
        text: as it stands in an answer.
        lines: the text of a paragraph line by line, before hard-wrapped lines were joined; (number, text).
        code: of a code block, its source without fences.
        language: of a code block, the name after the fence, lower case.
        code_line: of a code block, the line on which its source begins.
        items: entries of a list, rows of a table (the header first).
        strong: what a paragraph opens with in bold.
        linked: most of the text is links or addresses.
    """

    kind: BlockKind
    first_line: int
    last_line: int
    text: str
    lines: tuple[tuple[int, str], ...] = ()
    code: str = ""
    language: str = ""
    items: tuple[Item, ...] = ()
    strong: str = ""
    linked: bool = False
    code_line: int = 0

    @property
    def is_prose(self) -> bool:
        return self.kind not in ("code", "table")


def pointer(first_line: int, last_line: int) -> Block:
    """Stands for a block that only points elsewhere (a link, a picture, contents): it says nothing itself."""
    return Block("paragraph", first_line, last_line, "", linked=True)


@dataclass(slots=True)
class Section:
    """A heading and the blocks up to the next heading of any level.

    Attributes:
        heading: plain text as written, numbering included; empty before the first heading.
        level: 1 to 6; 0 for what comes before the first heading.
        parents: the headings above, outermost first.
        first_line, last_line: from the heading to the end of the last block.
    """

    heading: str
    level: int
    parents: tuple[str, ...]
    first_line: int
    last_line: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """A document's title (front matter, first heading or an empty string) and its sections that have a body."""

    title: str
    sections: tuple[Section, ...]


@dataclass(slots=True)
class Heading:
    """A heading as a reader of one format finds it; `level` 1 to 6."""

    text: str
    level: int
    line: int


def outline(document: Document) -> Outline:
    """Read a document's structure. Never fails: what has no structure is one section without a heading."""
    if document.kind == "notebook":
        from tunesmith.data.notebooks import read_notebook

        return arrange(*read_notebook(document.text))
    if document.kind == "html":
        from tunesmith.data.web_pages import read_html

        return arrange(*read_html(document.text))
    if document.kind == "rst":
        from tunesmith.data.restructured import read_rst

        return arrange(*read_rst(document.text))
    from tunesmith.data.plain import is_markdown, is_rst, read_plain

    if document.kind == "text" and is_rst(document.text):
        from tunesmith.data.restructured import read_rst

        return arrange(*read_rst(document.text))
    if is_markdown(document.text, named_so=document.kind == "markdown"):
        from tunesmith.data.markdown import read_markdown

        return arrange(*read_markdown(document.text))
    return arrange(*read_plain(document.text))


def arrange(title: str, parts: list[Heading | Block]) -> Outline:
    """Sections from headings and blocks in the order of the document."""
    parts = _without_outline_numbers(parts)
    sections: list[Section] = []
    above: list[Heading] = []
    current: Heading | None = None
    body: list[Block] = []

    def close() -> None:
        if not body:
            return
        parents = above[:-1] if current else above
        sections.append(
            Section(
                heading=current.text if current else "",
                level=current.level if current else 0,
                parents=tuple(parent.text for parent in parents),
                first_line=min(current.line, body[0].first_line) if current else body[0].first_line,
                last_line=max(block.last_line for block in body),
                blocks=tuple(block for block in body if block.text) or tuple(body[:1]),
            )
        )
        body.clear()

    for part in parts:
        if isinstance(part, Block):
            body.append(part)
            continue
        close()
        while above and above[-1].level >= part.level:
            above.pop()
        above.append(part)
        current = part
        title = title or (part.text if part.level == 1 else "")
    close()
    return Outline(title, tuple(sections))


def _without_outline_numbers(parts: list[Heading | Block]) -> list[Heading | Block]:
    """Strip "1.2 " from headings where the numbers of the document are an outline's.

    A single "4.6 Bittern" is a version, "3 steps" a count: only numbers that start at 1 (or 0) and
    grow from heading to heading are taken for numbering.
    """
    numbers: list[tuple[int, ...]] = []
    for part in parts:
        match = _OUTLINE_NUMBER.match(part.text) if isinstance(part, Heading) else None
        if match:
            numbers.append(tuple(map(int, match.group(1).split("."))))
    if len(numbers) < 2 or numbers[0][0] > 1 or any(a >= b for a, b in pairwise(numbers)):
        return parts
    return [
        replace(part, text=_OUTLINE_NUMBER.sub("", part.text, count=1)) if isinstance(part, Heading) else part
        for part in parts
    ]
