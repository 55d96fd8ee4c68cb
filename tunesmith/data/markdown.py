"""Markdown to headings and blocks, by its own parser: nothing inside a fence is ever a heading."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from tunesmith.data.code_lines import code_share
from tunesmith.data.dialects import fence_kind, is_machinery, plain_dialect, without_front_matter
from tunesmith.data.markup import PROSE_FENCES, fenced, table_block, term_of
from tunesmith.data.pointers import without_pointing
from tunesmith.data.prose import text_blocks
from tunesmith.data.sections import Block, Heading, Item, pointer
from tunesmith.data.source_lines import GONE, Lines, dedented, runs
from tunesmith.data.text import has_pointer, is_linked, plain_inline, unwrap, without_pointers

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_QUOTE_MARK = re.compile(r"^[ \t]{0,3}>[ \t]?")
_ALERT = re.compile(r"^\[!\w+\][-+]?[ \t]*", re.MULTILINE)
_ITEM_MARK = re.compile(r"^\s*(?:[-*+]|\d{1,9}[.)])(?:[ \t]+|$)(?:\[[ xX]\][ \t]+)?")
_STRONG_START = re.compile(r"(\*\*|__)(?=\S)(.{1,100}?)(?<=\S)\1")
_HEADING_ID = re.compile(r"\s*\{[#.][^{}]*\}\s*$")
_ONLY_IMAGES = re.compile(r"(?:\[?!\[[^\[\]]*\]\([^()]*\)(?:\]\([^()]*\))?\s*)+")
_TABLE_RULE = re.compile(r"-[ \t]*:?[ \t]*\||\|[ \t]*:?-")
_MAX_SETEXT = 80
_MAX_FOLDED = 20  # folded answers inside one another; deeper ones are read as they stand


def read_markdown(text: str, first_line: int = 1) -> tuple[str, list[Heading | Block]]:
    """The title in the front matter (or an empty string), and headings and blocks in order.

    Args:
        text: the source, line ends `\\n`.
        first_line: the number of its first line in the document.
    """
    environment: dict[str, Any] = {}
    title, text = without_front_matter(text)
    needs = (
        _TABLE_RULE.search(text) is not None,
        "[^" in text,
        "\n:" in text or "\n~" in text,
    )
    tokens = _parser(*needs).parse(text, environment)
    reader = _Reader(text.split("\n"), tokens, frozenset(environment.get("references", ())), first_line)
    reader.read(0, len(tokens))
    return title, reader.parts


@cache
def _parser(tables: bool, footnotes: bool, terms: bool) -> MarkdownIt:
    """A parser with the extensions that a text needs: each one costs time at every line."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.deflist import deflist_plugin
    from mdit_py_plugins.footnote import footnote_plugin

    from tunesmith.data.markdown_shortcut import take_shortcuts

    parser = MarkdownIt("commonmark")
    if tables:
        parser.enable("table")
    if footnotes:
        parser.use(footnote_plugin)
    if terms:
        parser.use(deflist_plugin)
    take_shortcuts(parser)
    # Only the structure: `plain_inline` normalises inline marks several times faster, and `decode` line ends.
    parser.core.ruler.enableOnly(["block"])
    return parser


class _Reader:
    """Walks the tokens of one text, top level only."""

    def __init__(self, lines: list[str], tokens: Sequence[Token], references: Collection[str], first_line: int) -> None:
        self.lines = lines
        self.tokens = tokens
        self.references = references
        self.offset = first_line
        self.parts: list[Heading | Block] = []

    def read(self, start: int, end: int) -> None:
        index = start
        while index < end:
            index = self._one(index, end)

    def _one(self, index: int, end: int) -> int:
        """Read the block at `index`; the index of the next one."""
        token = self.tokens[index]
        close = self._close(index)
        match token.type:
            case "heading_open":
                self._heading(index)
            case "paragraph_open":
                self._paragraph(index)
            case "fence" | "code_block":
                self.parts += self._code(token)
            case "bullet_list_open" | "ordered_list_open":
                self._list(index, close)
            case "blockquote_open":
                self._quote(index, close)
            case "table_open":
                self._table(index, close)
            case "dl_open":
                self._terms(index, close)
            case "html_block":
                return self._html(index, end)
        return close + 1

    def _close(self, index: int) -> int:
        depth = 0
        for position in range(index, len(self.tokens)):
            depth += self.tokens[position].nesting
            if depth == 0:
                return position
        return len(self.tokens) - 1

    def _span(self, token: Token) -> tuple[int, int]:
        """First line and line past the last, from 0, trailing blank lines left out."""
        first, past = token.map or (0, 0)
        while past > first + 1 and not self.lines[past - 1].strip():
            past -= 1
        return first, past

    def _heading(self, index: int) -> None:
        token, content = self.tokens[index], self.tokens[index + 1].content
        text = plain_inline(_HEADING_ID.sub("", content), self.references).strip()
        if not text:
            return
        # A paragraph with a rule right under it is a heading to the letter of the format, rarely to its author.
        doubtful = token.markup == "-" and (
            "\n" in content or len(text) > _MAX_SETEXT or text.endswith(("。", ".", "；", ";", "，", ","))
        )
        if doubtful:
            self._paragraph(index)
            return
        first, _past = self._span(token)
        self.parts.append(Heading(" ".join(text.split()), int(token.tag[1]), first + self.offset))

    def _paragraph(self, index: int) -> None:
        content = self.tokens[index + 1].content
        first, past = self._span(self.tokens[index])
        if is_machinery(content):
            if self.parts and isinstance(self.parts[-1], Heading):  # all there is below it, perhaps
                self.parts.append(pointer(first + self.offset, past + self.offset - 1))
            return
        if "\n" not in content and "](" not in content and content.startswith("#"):
            content = content.lstrip("#")
        text = self._inline(content)
        if _ONLY_IMAGES.fullmatch(content) or not any(char.isalnum() for char in text):
            if any(char.isalnum() for char in content):
                self.parts.append(pointer(first + self.offset, past + self.offset - 1))
            return
        lines = [line.strip() for line in text.split("\n")]
        strong = _STRONG_START.match(content)
        self.parts.append(
            Block(
                "paragraph",
                first + self.offset,
                first + self.offset + content.count("\n"),
                _unwrapped(lines, content),
                lines=tuple((first + self.offset + number, line) for number, line in enumerate(lines)),
                strong=plain_inline(strong[2]).strip() if strong else "",
                linked=is_linked(content),
            )
        )

    def _inline(self, content: str) -> str:
        """Markdown source of one block to text, line by line; what only points elsewhere becomes blank."""
        content = plain_dialect(without_pointing(content))
        text = plain_inline(content, self.references)
        if ("参" in text or "相关" in text or "](" in content) and has_pointer(text):
            return without_pointers(text)
        return text

    def _code(self, token: Token) -> list[Block]:
        first, past = token.map or (0, 0)
        kind, language = fence_kind(token.info)
        source = token.content.rstrip("\n")
        if kind == "machinery":  # contents, included files, generated references
            return [pointer(first + self.offset, past + self.offset - 1)]
        if not source.strip():
            return []
        if kind == "note":
            return self._note(source, first + self.offset, past + self.offset - 1)
        if token.type == "code_block":
            past = first + source.count("\n") + 1
        if language in PROSE_FENCES and code_share(source.split("\n")) < 0.25:
            return text_blocks(source.split("\n"), first + self.offset + (token.type == "fence"))
        return [
            Block(
                "code",
                first + self.offset,
                past + self.offset - 1,
                fenced(source, language),
                code=source,
                language=language,
                code_line=first + self.offset + (token.type == "fence"),
            )
        ]

    def _note(self, source: str, first: int, last: int) -> list[Block]:
        """A note written as a fence (MyST): a quotation."""
        lines = [line for line in source.split("\n") if not line.startswith(":")]
        text = _squeezed(unwrap(self._inline("\n".join(lines)).strip("\n")))
        return [Block("quote", first, last, text)] if any(char.isalnum() for char in text) else []

    def _lines_of(self, start: int, end: int, first: int, lines: list[str]) -> Lines:
        """The lines of a list or quote as text, one for one; code inside keeps every character."""
        code: set[int] = set()
        for token in self.tokens[start:end]:
            if token.type in ("fence", "code_block") and token.map:
                code.update(range(token.map[0] - first, token.map[1] - first))
        plain: list[str] = []
        for run, is_code in runs(len(lines), code):
            source = lines[run]
            converted = source if is_code else self._inline("\n".join(source)).split("\n")
            # A pointer that was taken away took its line with it.
            if len(converted) != len(source):
                converted = [self._inline(line) for line in source]
            plain += [
                GONE if written.strip() and not line.strip() else line
                for written, line in zip(source, converted, strict=True)
            ]
        return Lines(lines, plain, code)

    def _list(self, index: int, close: int) -> None:
        first, past = self._span(self.tokens[index])
        lines = self._lines_of(index, close, first, dedented(self.lines[first:past]))
        text = _squeezed(lines.joined(0, past - first))
        if not any(char.isalnum() for char in text):
            self.parts.append(pointer(first + self.offset, past + self.offset - 1))
            return
        level = self.tokens[index].level + 1
        items = [
            self._item(token, first, lines)
            for token in self.tokens[index + 1 : close]
            if token.type == "list_item_open" and token.level == level
        ]
        self.parts.append(
            Block(
                "list",
                first + self.offset,
                past + self.offset - 1,
                text,
                items=tuple(items),
                linked=is_linked("\n".join(lines.source)),
            )
        )

    def _item(self, token: Token, list_first: int, lines: Lines) -> Item:
        first, past = self._span(token)
        start, end = first - list_first, past - list_first
        marker = _ITEM_MARK.match(lines.source[start])
        indent = len(marker.group()) if marker else 0
        raw = "\n".join((lines.source[start][indent:], *lines.source[start + 1 : end]))
        term, meaning, marked = term_of(raw)
        if end - start == 1:
            text = "" if lines.plain[start] == GONE else lines.plain[start][indent:].strip()
        else:
            text = lines.joined(start, end, indent).strip()
        return Item(first + self.offset, past + self.offset - 1, text, term, unwrap(meaning), marked)

    def _quote(self, index: int, close: int) -> None:
        first, past = self._span(self.tokens[index])
        lines = [_QUOTE_MARK.sub("", line) for line in self.lines[first:past]]
        text = _squeezed(_ALERT.sub("", self._lines_of(index, close, first, lines).joined(0, past - first))).strip()
        if any(char.isalnum() for char in text):
            numbered = tuple((first + self.offset + number, line) for number, line in enumerate(text.split("\n")))
            self.parts.append(
                Block(
                    "quote",
                    first + self.offset,
                    past + self.offset - 1,
                    text,
                    lines=numbered if len(numbered) == past - first else (),
                    linked=is_linked("\n".join(lines)),
                )
            )
        elif any(map(str.strip, lines)):
            self.parts.append(pointer(first + self.offset, past + self.offset - 1))

    def _table(self, index: int, close: int) -> None:
        rows: list[Item] = []
        cells: list[str] = []
        line = 0
        for position in range(index, close):
            token = self.tokens[position]
            if token.type == "tr_open":
                cells = []
                line = (token.map or self.tokens[index].map or (0, 0))[0]
            elif token.type == "inline":
                cells.append(" ".join(plain_inline(token.content, self.references).split()))
            elif token.type == "tr_close":
                rows.append(Item(line + self.offset, line + self.offset, "", cells=tuple(cells)))
        first, past = self._span(self.tokens[index])
        block = table_block(rows, first + self.offset, past + self.offset - 1)
        if block:
            self.parts.append(block)

    def _terms(self, index: int, close: int) -> None:
        first, past = self._span(self.tokens[index])
        items: list[Item] = []
        term, line = "", 0
        for position in range(index, close):
            token = self.tokens[position]
            if token.type == "dt_open":
                term, line = plain_inline(self.tokens[position + 1].content).strip(), (token.map or (first, past))[0]
            elif token.type == "dd_open" and token.map:
                raw = [line_text.strip() for line_text in self.lines[token.map[0] : token.map[1]] if line_text.strip()]
                # From the second term on, the plugin counts the term's own line to its meaning.
                raw = raw[next((at for at, written in enumerate(raw) if written[0] in ":~"), 0) :]
                meaning = unwrap(plain_inline("\n".join(raw).lstrip(":~ "), self.references))
                items.append(
                    Item(line + self.offset, token.map[1] + self.offset - 1, f"{term}: {meaning}", term, meaning, True)
                )
        text = "\n".join(item.text for item in items)
        if text:
            self.parts.append(Block("terms", first + self.offset, past + self.offset - 1, text, items=tuple(items)))

    def _html(self, index: int, end: int) -> int:
        from tunesmith.data.web_pages import read_html

        token = self.tokens[index]
        first, past = self._span(token)
        lower = token.content.lower()
        if "<details" in lower and "</details" not in lower:
            closing = self._details_end(index, end)
            if closing is not None:
                self._details(index, closing)
                return closing + 1
        if "<" in token.content and any(char.isalnum() for char in re.sub(r"<[^<>]*>", "", token.content)):
            _title, parts = read_html("\n".join(self.lines[first:past]), first + self.offset)
            # Authors write Markdown inside of HTML, where the format says it is none.
            self.parts += [
                replace(part, text=self._inline(part.text)) if isinstance(part, Block) and part.kind != "code" else part
                for part in parts
            ]
        return index + 1

    def _details_end(self, index: int, end: int) -> int | None:
        depth = 0
        for position in range(index, end):
            token = self.tokens[position]
            if token.type == "html_block" and token.level == self.tokens[index].level:
                lower = token.content.lower()
                depth += lower.count("<details") - lower.count("</details")
                if depth <= 0:
                    return position
                if depth > _MAX_FOLDED:
                    return None
        return None

    def _details(self, index: int, closing: int) -> None:
        """A folded answer: `<details><summary>question</summary>`, Markdown, `</details>`."""
        opening = self.tokens[index].content
        summary = re.search(r"<summary[^<>]*>(.*?)</summary>", opening, re.DOTALL | re.IGNORECASE)
        inner = _Reader(self.lines, self.tokens, self.references, self.offset)
        after = opening[summary.end() :].strip() if summary else ""
        inner.read(index + 1, closing)
        question = " ".join(plain_inline(summary[1]).split()) if summary else ""
        pieces = [plain_inline(after).strip(), *(part.text for part in inner.parts)]
        answer = "\n\n".join(piece for piece in pieces if piece)
        # What is folded away may be a document of its own.
        if not question or not answer or any(isinstance(part, Heading) for part in inner.parts):
            self.parts += inner.parts
            return
        first, past = self._span(self.tokens[index])[0], self._span(self.tokens[closing])[1]
        item = Item(first + self.offset, past + self.offset - 1, answer, question, answer)
        self.parts.append(Block("details", item.first_line, item.last_line, f"{question}\n\n{answer}", items=(item,)))


def _unwrapped(lines: list[str], content: str) -> str:
    if all(lines):
        return unwrap("\n".join(lines), content)
    return unwrap("\n".join(line for line in lines if line))


def _squeezed(text: str) -> str:
    return re.sub(r"\n[ \t]*\n(?:[ \t]*\n)+", "\n\n", text)
