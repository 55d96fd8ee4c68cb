"""A rule that goes before those of the Markdown parser and reads the plainest blocks at one go.

Most blocks of most notes are paragraphs, headings and flat lists. The parser tries a dozen rules on each of their
lines; here one expression matches the whole block, or the parser's own rules have their turn. It finds what they would
find, less what nobody reads: the insides of lists, quotes and footnotes are taken from their lines, so that paragraphs
there leave no token.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from markdown_it.common.utils import mdTrim
from markdown_it.rules_block import fence, heading, hr
from markdown_it.token import Token

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock

# The beginning of a line that opens no other block, and does not end the paragraph before it. Everything is
# possessive: what was taken is never given back, so that no text takes more than linear time.
_PLAIN = (
    r"(?:[^>#<=~+\-|:*_`\[\d\s]|`{1,2}+[^`\n]|\*{1,2}+[^\s*]|_{1,2}+[^\s_]|::"
    r"|\[(?!\^)[^\[\]\n\\]*+\](?!:)|\d++(?![.)](?:[ \t\n]|\Z)))"
)
_LINES = rf"{_PLAIN}[^\n]*+(?:\n[ \t]*+{_PLAIN}[^\n]*+)*+"
_BULLET = r"[\-*+] {1,3}+(?=\S)"
_MARK = rf"(?:{_BULLET}|\d{{1,9}}+[.)] {{1,3}}+(?=\S))"
_HEADING = r"#{1,6}+[ \t]++\S"
_PLAIN_LINE = re.compile(_PLAIN)
# A paragraph ends at a blank line, but a colon or tilde behind that would make it a term; and at what interrupts it.
_PARAGRAPH = re.compile(rf"{_LINES}(?=\n[ \t]*+(?:\n(?![ \t]*[:~])|\Z)|\Z|\n {{0,3}}(?:{_BULLET}|{_HEADING}|>))")
_INTERRUPTS = re.compile(rf"{_BULLET}|{_HEADING}|>")
# Behind a blank line an indented one, or a mark, would belong to the list.
_LIST_END = r"(?=(?:\n[ \t]*+)*+\Z|(?:\n[ \t]*+){2,}+(?<=\n)[^\s\-*+\d])"
_BLANK = r"\n(?:[ \t]*+\n)*+"


def _entry(mark: str, width: int) -> str:
    """An entry: its paragraph, entries below it, and more of both behind blank lines, none far enough in to be code."""
    below = rf"{_BLANK} {{{width},{width + 3}}}+(?:{_MARK})?{_LINES}|\n {{{width},}}+{_MARK}{_LINES}"
    return rf"{mark} {_LINES}(?:{below})*+"


_BULLETS = re.compile(rf"(?P<mark>[\-*+]){_entry('', 2)}(?:{_BLANK}(?P=mark){_entry('', 2)})*+{_LIST_END}")
_NUMBERED = f"(?:{_entry('[0-9](?P=mark)', 3)}|{_entry('[0-9]{2}(?P=mark)', 4)})"
_NUMBERS = re.compile(rf"(?=[0-9]{{1,2}}(?P<mark>[.)])){_NUMBERED}(?:{_BLANK}{_NUMBERED})*+{_LIST_END}")
_ITEM = re.compile(r"^(?:[\-*+]|\d{1,2}[.)]) ", re.MULTILINE)
_WHOLE_HEADING = re.compile(r"(#{1,6}+)[ \t]+([^\n# \t](?:[^\n#]*[^\n# \t])?)[ \t]*(?=\n|\Z)")
# Nobody looks at more than their kind, so that there need be only one of each.
_HEADING_END = Token("heading_close", "", -1)
_PARAGRAPH_END = Token("paragraph_close", "p", -1)
_LIST_CLOSE = Token("list_close", "", -1)
_RULES = ("---", "***", "___")
_TABLE_RULE = ("|", "--", "-:", "-|", ":")


def take_shortcuts(parser: MarkdownIt) -> None:
    """Put the rule first; tables, where they are enabled, come right behind it."""
    parser.block.ruler.before("table", "shortcut", _shortcut)


def _shortcut(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    if silent or state.sCount[start] - state.blkIndent > 3:
        return False
    position = state.bMarks[start] + state.tShift[start]
    first = state.src[position]
    top = state.level == 0 and state.blkIndent == 0 and state.sCount[start] >= 0
    if first in "#`~" and not _table_follows(state, start):
        if first == "#":
            match = _WHOLE_HEADING.match(state.src, position) if top else None
            if match:
                lines = [start, start + 1]
                state.tokens += (
                    Token("heading_open", f"h{len(match[1])}", 1, map=lines, markup=match[1]),
                    Token("inline", "", 0, map=lines, content=match[2]),
                    _HEADING_END,
                )
                state.line = start + 1
                return True
            return heading(state, start, end, silent)
        if fence(state, start, end, silent):
            return True
    if state.src.startswith(_RULES, position) and not _table_follows(state, start) and hr(state, start, end, silent):
        return True
    if not top:
        return _nested_paragraph(state, start, position)
    marked = first in "-*+0123456789" and state.tShift[start] == 0
    if marked and _flat_list(state, start, position):
        return True
    match = _PARAGRAPH.match(state.src, position)
    if not match:
        return False
    lines = [start, start + match.group().count("\n") + 1]
    state.tokens += (
        Token("paragraph_open", "p", 1, map=lines),
        Token("inline", "", 0, map=lines, content=mdTrim(match.group())),
        _PARAGRAPH_END,
    )
    state.line = lines[1]
    return True


def _table_follows(state: StateBlock, start: int) -> bool:
    line = start + 1
    return line < state.lineMax and state.src.startswith(_TABLE_RULE, state.bMarks[line] + state.tShift[line])


def _nested_paragraph(state: StateBlock, start: int, position: int) -> bool:
    """Pass over a paragraph inside of a list, quote, definition or footnote."""
    source, begins, shifts, ends = state.src, state.bMarks, state.tShift, state.eMarks
    last = state.lineMax
    line = start
    while _PLAIN_LINE.match(source, position):
        line += 1
        if line >= last:
            break
        position = begins[line] + shifts[line]
        if position >= ends[line]:
            # A colon behind the blank line would make it a term.
            following = line + 1
            if following < last and source.startswith((":", "~"), begins[following] + shifts[following]):
                return False
            break
    else:
        if line == start or not _interrupts(state, line, position):
            return False
    state.line = line
    return True


def _interrupts(state: StateBlock, line: int, position: int) -> bool:
    """Whether a line begins something that ends the paragraph before it, for certain."""
    indent = state.sCount[line]
    sibling = indent >= state.blkIndent or state.listIndent < 0 or indent - state.listIndent < 4
    return 0 <= indent < state.blkIndent + 4 and sibling and _INTERRUPTS.match(state.src, position) is not None


def _flat_list(state: StateBlock, start: int, position: int) -> bool:
    """A list with nothing but paragraphs and lists in it."""
    pattern, name = (_NUMBERS, "ordered_list") if state.src[position].isdigit() else (_BULLETS, "bullet_list")
    match = pattern.match(state.src, position)
    if not match:
        return False
    written = f"{match.group()}\n"
    past = start + written.count("\n")
    state.tokens.append(Token(f"{name}_open", "", 1, map=[start, past]))
    items = [found.start() for found in _ITEM.finditer(written)]
    line = start
    for item, following in pairwise([*items, len(written)]):
        beyond = line + written.count("\n", item, following)
        state.tokens.append(Token("list_item_open", "li", 0, map=[line, beyond], level=1))
        line = beyond
    state.tokens.append(_LIST_CLOSE)
    state.line = past
    return True
