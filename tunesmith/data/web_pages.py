"""HTML to headings and blocks, whole pages and the pieces of HTML inside Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from tunesmith.data.code_lines import code_share
from tunesmith.data.markup import PROSE_FENCES, fenced, table_block, term_of
from tunesmith.data.pointers import without_pointing
from tunesmith.data.prose import text_blocks
from tunesmith.data.sections import Block, Heading, Item, pointer

_LEFT_OUT_TAGS = "script style nav footer aside noscript template svg button form select iframe head"
_VOID_TAGS = "br hr img input meta link source wbr col area base embed param track"
_BLOCK_TAGS = (
    "p div section article main header body html ul ol li dl dt dd blockquote figure figcaption address center td th tr"
    " table thead tbody tfoot caption pre details summary fieldset hgroup"
)
_LEFT_OUT, _VOID, _BLOCKS = (frozenset(tags.split()) for tags in (_LEFT_OUT_TAGS, _VOID_TAGS, _BLOCK_TAGS))
_LINE = "\x01"
# What pages without <nav> call their menus.
_MENU_NAMES = (
    "toc nav navbar navigation menu sidebar sidenav side-nav breadcrumb breadcrumbs pagination footer sphinxsidebar"
    " sphinxsidebarwrapper headerlink skip-link related column2"
)
_MENU = frozenset(_MENU_NAMES.split())
_MENU_TAGS = frozenset(("div", "ul", "ol", "section", "table", "header", "a", "span"))  # those that must be closed
_MOSTLY = 0.8
_SPACE = re.compile(r"[ \t\r\f\n\xa0]+")
_LANGUAGE = re.compile(r"(?:language|lang|highlight|brush)[-: ]+([\w+#-]+)")


def read_html(text: str, first_line: int = 1) -> tuple[str, list[Heading | Block]]:
    """The page's title, its headings and its blocks. Navigation, scripts, footers and forms are left out."""
    reader = _Page(first_line)
    # A tag that is never closed is looked for to the end, and so is the next: those past the last ">" are text.
    closed = text.rfind(">") + 1
    reader.feed(text[:closed] + text[closed:].replace("<", "&lt;"))
    reader.close()
    reader.end_text()
    return reader.title, reader.parts


class _Page(HTMLParser):
    def __init__(self, first_line: int) -> None:
        super().__init__(convert_charrefs=True)
        self._before = first_line - 1
        self.title = ""
        self.parts: list[Heading | Block] = []
        self._skip: list[str] = []
        self._text: list[str] = []
        self._seen = False
        self._text_line = 0
        self._text_end = 0
        self._anchor = 0  # how many <a> are open
        self._said = self._linked = 0  # letters of the block being read, and those of them in links
        self._in_title = False
        self._heading = 0
        self._pre: str | None = None
        self._lists: list[_List] = []
        self._table: _Table | None = None
        self._quote = 0
        self._details: list[_Details] = []

    # -- what HTMLParser calls

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        if self._skip or tag in _LEFT_OUT or _is_menu(tag, attrs):
            if tag not in _VOID:
                self._skip.append(tag)
            return
        if tag == "a":
            self._anchor += 1
            self._text.append("\x03")
        if tag == "br":
            self._add(_LINE)
        elif re.fullmatch(r"h[1-6]", tag):
            self.end_text()
            self._heading = int(tag[1])
        elif tag == "code" and self._pre is None:
            self._add("`")
        elif tag in _BLOCKS:
            self._start_block(tag, dict(attrs))
        if tag == "code" and self._pre == "":
            self._pre = _language(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if self._skip:
            if tag in self._skip:
                while self._skip.pop() != tag:
                    pass
            return
        if tag == "a" and self._anchor:
            self._anchor -= 1
            self._text.append("\x04")
        if re.fullmatch(r"h[1-6]", tag):
            self._end_heading()
        elif tag == "code" and self._pre is None:
            self._add("`")
        elif tag in _BLOCKS:
            self._end_block(tag)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += _SPACE.sub(" ", data).strip()
        elif not self._skip:
            self._add(data)

    # -- structure

    def _start_block(self, tag: str, attrs: dict[str, str | None]) -> None:
        if tag in ("ul", "ol"):
            if not self._lists:
                self.end_text()
            self._lists.append(_List(tag == "ol", self._line()))
        elif tag == "li" and self._lists:
            self._end_item()
            self._lists[-1].open_item(self._line())
        elif tag == "dl":
            self.end_text()
            self._lists.append(_List(False, self._line(), terms=True))
        elif tag in ("dt", "dd") and self._lists:
            self._end_item()
            self._lists[-1].open_term(tag, self._line())
        elif tag == "table" and self._table is None:
            self.end_text()
            self._table = _Table(self._line())
        elif tag == "tr" and self._table:
            self._end_cell()
            self._table.rows.append([])
            self._table.lines.append(self._line())
            self._table.ends.append(self._line())
        elif tag in ("td", "th") and self._table:
            self._end_cell()
            self._table.open = True
        elif tag == "pre":
            self.end_text()
            self._pre = _language(attrs)
        elif tag == "details":
            self.end_text()
            self._details.append(_Details(self._line(), len(self.parts)))
        elif not (self._table or self._lists or self._heading):
            self.end_text()
            self._quote += tag == "blockquote"

    def _end_block(self, tag: str) -> None:
        if tag in ("ul", "ol", "dl") and self._lists:
            self._end_item()
            self._end_list()
        elif tag in ("li", "dt", "dd") and self._lists:
            self._end_item()
        elif tag == "table" and self._table:
            self._end_cell()
            self._end_table()
        elif tag in ("td", "th", "tr") and self._table:
            self._end_cell()
        elif tag == "pre" and self._pre is not None:
            self._end_pre()
        elif tag == "summary" and self._details:
            self._details[-1].summary = self._take()
        elif tag == "details" and self._details:
            self._end_details()
        elif self._lists or self._table or self._heading:
            self._add(_LINE if tag in ("p", "div") else " ")
        else:
            self.end_text()
            self._quote -= tag == "blockquote" and self._quote > 0

    def _line(self) -> int:
        return self.getpos()[0] + self._before

    def _add(self, data: str) -> None:
        if data.strip():
            if not self._seen:  # lines count from the first visible character
                self._text_line = self._line() + data[: len(data) - len(data.lstrip())].count("\n")
                self._seen = True
            self._text_end = self._line() + data.rstrip().count("\n")
            letters = sum(map(str.isalnum, data))
            self._said += letters
            self._linked += letters if self._anchor else 0
        self._text.append(data)

    def _take(self, *, keep_space: bool = False) -> str:
        text = "".join(self._text)
        self._text.clear()
        self._seen = False
        if "\x03" in text:
            text = text if keep_space else without_pointing(text)
            text = text.replace("\x03", "").replace("\x04", "")
        if keep_space:
            return text.replace(_LINE, "\n")
        # A newline in the source is a space; only <br> and the ends of inner paragraphs are lines here.
        return "\n".join(line for part in text.split(_LINE) if (line := _SPACE.sub(" ", part).strip()))

    def _is_linked(self) -> bool:
        """Whether what was read since the last call is mostly links."""
        linked = self._linked > _MOSTLY * self._said
        self._said = self._linked = 0
        return linked

    def _flow(self) -> str:
        return " ".join(self._take().split("\n"))

    def end_text(self) -> None:
        """Make a paragraph of the text gathered so far."""
        first, last = self._text_line, self._text_end
        text = self._flow().replace("``", "").strip()
        linked = self._is_linked()
        if any(char.isalnum() for char in text):
            kind = "quote" if self._quote else "paragraph"
            lines = ((first, text),)
            self.parts.append(Block(kind, first, max(first, last), text, lines=lines, linked=linked))
        elif linked:
            self.parts.append(pointer(first, max(first, last)))

    def _end_heading(self) -> None:
        line = self._text_line or self._line()
        text = self._flow().replace("`", "").strip(" ¶#\uf0c1🔗")
        if text and self._heading:
            self.parts.append(Heading(text, self._heading, line))
        self._heading = 0

    def _end_pre(self) -> None:
        language, first, last = self._pre or "", self._text_line, self._text_end
        source = self._take(keep_space=True).strip("\n")
        self._pre = None
        if not source.strip():
            return
        if language in PROSE_FENCES and code_share(source.split("\n")) < 0.25:
            self.parts += text_blocks(source.split("\n"), first)
        else:
            span = (first, max(first, last))
            text = fenced(source, language)
            self.parts.append(Block("code", *span, text, code=source, language=language, code_line=first))

    # -- lists, tables, details

    def _end_item(self) -> None:
        self._lists[-1].close_item(self._take(), self._text_end)

    def _end_list(self) -> None:
        closed = self._lists.pop()
        if self._lists:
            outer = self._lists[-1]
            nested = "\n".join(f"  {line}" for line in closed.text().split("\n") if line)
            outer.append_nested(nested, self._text_end)
        elif closed.items:
            kind = "terms" if closed.terms else "list"
            last = max(item.last_line for item in closed.items)
            items = tuple(closed.items)
            self.parts.append(Block(kind, closed.line, last, closed.text(), items=items, linked=self._is_linked()))

    def _end_cell(self) -> None:
        if self._table and self._table.open and self._table.rows:
            self._table.rows[-1].append(self._flow())
            self._table.ends[-1] = max(self._table.ends[-1], self._text_end)
            self._table.open = False
        else:
            self._take()

    def _end_table(self) -> None:
        table, self._table = self._table, None
        if table is None:
            return
        rows = [
            Item(line, end, "", cells=tuple(cells))
            for line, end, cells in zip(table.lines, table.ends, table.rows, strict=True)
            if cells
        ]
        if len({len(row.cells) for row in rows}) == 1 and len(rows[0].cells) > 1:
            block = table_block(rows, table.line, max(self._text_end, table.line))
            self.parts += [block] if block else []
        else:  # laid out with a table: its cells are paragraphs
            for row in rows:
                text = " ".join(cell for cell in row.cells if cell)
                if text:
                    self.parts.append(Block("paragraph", row.first_line, row.last_line, text))

    def _end_details(self) -> None:
        self.end_text()
        details = self._details.pop()
        inner = [part for part in self.parts[details.start :] if isinstance(part, Block)]
        answer = "\n\n".join(block.text for block in inner)
        if not details.summary or not answer:
            return
        question = " ".join(details.summary.split())
        last = inner[-1].last_line
        item = Item(details.line, last, answer, question, answer)
        del self.parts[details.start :]
        self.parts.append(Block("details", details.line, last, f"{question}\n\n{answer}", items=(item,)))


class _List:
    """A list being read."""

    def __init__(self, ordered: bool, line: int, *, terms: bool = False) -> None:
        self.ordered = ordered
        self.terms = terms
        self.line = line
        self.items: list[Item] = []
        self._first = line
        self._open = ""
        self._term = ""

    def open_item(self, line: int) -> None:
        self._first, self._open = line, "li"

    def open_term(self, tag: str, line: int) -> None:
        self._open = tag
        if tag == "dt":
            self._first = line

    def close_item(self, text: str, last_line: int) -> None:
        opened, self._open = self._open, ""
        if not opened or not text.strip():
            return
        if opened == "dt":
            self._term = " ".join(text.replace("`", "").split())
            return
        last = max(self._first, last_line)
        if opened == "dd":
            meaning = " ".join(text.split())
            self.items.append(Item(self._first, last, f"{self._term}: {meaning}", self._term, meaning, True))
        else:
            self.items.append(Item(self._first, last, text, *term_of(text)))

    def append_nested(self, nested: str, last_line: int) -> None:
        if self.items and nested:
            item = self.items[-1]
            last = max(item.last_line, last_line)
            self.items[-1] = Item(item.first_line, last, f"{item.text}\n{nested}", item.term, item.meaning)

    def text(self) -> str:
        if self.terms:
            return "\n".join(item.text for item in self.items)
        marks = [f"{number}." if self.ordered else "-" for number in range(1, len(self.items) + 1)]
        return "\n".join(f"{mark} {item.text}" for mark, item in zip(marks, self.items, strict=True))


class _Table:
    """A table being read."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.rows: list[list[str]] = []
        self.lines: list[int] = []
        self.ends: list[int] = []
        self.open = False


class _Details:
    """A `<details>` being read: where it began, and how many parts came before."""

    def __init__(self, line: int, start: int) -> None:
        self.line = line
        self.start = start
        self.summary = ""


def _is_menu(tag: str, attrs: list[tuple[str, str | None]]) -> bool:
    """Whether an element says that it is hidden or leads through the site."""
    for name, value in attrs:
        if name == "hidden" or (name == "role" and value in ("navigation", "search", "contentinfo")):
            return True
        if name in ("class", "id") and value and tag in _MENU_TAGS and not _MENU.isdisjoint(value.lower().split()):
            return True
    return False


def _language(attrs: dict[str, str | None]) -> str:
    match = _LANGUAGE.search(attrs.get("class") or "")
    return match[1].lower() if match else ""
