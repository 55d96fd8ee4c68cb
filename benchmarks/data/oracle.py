"""A second opinion on headings and on source text, with other parsers than the product's.

Markdown by `commonmark` (a port of commonmark.js), reStructuredText by `docutils`, HTML by `lxml`. None of them is a
dependency of the project: `extraction.py --parsers` names the folder of packages that has them.
"""

from __future__ import annotations

import html
import io
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

Lines = dict[int, str]
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?^---[ \t]*$", re.DOTALL | re.MULTILINE)
_HTML_HEADING = re.compile(r"<h[1-6]\b", re.IGNORECASE)
_RAW_HTML = re.compile(r"<[^<>]*>|<!--.*?-->", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK_END = re.compile(r"\]\([^()]*(?:\([^()]*\)[^()]*)*\)|\]\[[^\[\]]*\]")
_ROLE_NAME = re.compile(r":[\w+.:-]+:(?=`)|\{[\w:.-]+\}(?=`)")


@dataclass(frozen=True)
class Seen:
    """What the other parser saw: heading lines (from 1) and, of each, the lines up to the next, where text stands."""

    headings: Lines
    bodies: list[tuple[int, int]]


def letters(text: str) -> str:
    """Letters and digits in lower case: the normalisation under which answers are looked for."""
    return "".join(char for char in text.lower() if unicodedata.category(char)[0] in "LN")


def look(kind: str, text: str) -> Seen | None:
    """Headings of a file by the other parser; None for a kind without one (plain text)."""
    if kind == "markdown":
        return _markdown(text)
    if kind == "html":
        return _html(text)
    return _rst(text) if kind == "rst" else None


def _blank(match: re.Match[str]) -> str:
    return "\n" * match.group().count("\n")


def _markdown(text: str) -> Seen:
    from commonmark import Parser  # pyright: ignore

    source = _FRONT_MATTER.sub(_blank, text)
    headings: Lines = {}
    filled: set[int] = set()
    for node, entering in Parser().parse(source).walker():
        if not entering or not node.sourcepos:
            continue
        (first, _), (last, _) = node.sourcepos
        if node.t == "heading" and node.parent.t == "document":
            headings[first] = source.split("\n", first)[first - 1]
        elif node.t == "html_block":
            for offset, line in enumerate(_COMMENT.sub(_blank, node.literal or "").split("\n")):
                if _HTML_HEADING.search(line):
                    headings[first + offset] = line
                elif letters(_RAW_HTML.sub("", line)):
                    filled.add(first + offset)
        elif node.t in ("paragraph", "code_block"):
            filled.update(range(first, last + 1))
    return _seen(headings, filled, source.count("\n") + 1)


def _html(text: str) -> Seen:
    from lxml import html as lxml_html  # pyright: ignore

    root = lxml_html.fromstring(text.encode() or b"<p></p>", parser=lxml_html.HTMLParser(encoding="utf-8"))
    found = [element for element in root.iter() if isinstance(element.tag, str)]
    headings: Lines = {e.sourceline: e.text_content() for e in found if re.fullmatch("h[1-6]", e.tag)}
    return _seen(headings, set(), text.count("\n") + 1)


def _rst(text: str) -> Seen | None:
    from docutils import core, nodes, utils  # pyright: ignore

    settings: dict[str, Any] = {
        "report_level": 5, "halt_level": 5, "warning_stream": io.StringIO(), "file_insertion_enabled": False,
        "raw_enabled": False, "doctitle_xform": False, "sectsubtitle_xform": False, "_disable_config": True,
    }  # fmt: skip
    try:
        tree = core.publish_doctree(text, settings_overrides=settings)
    except (utils.SystemMessage, AttributeError, ValueError, TypeError):
        return None
    # docutils numbers a title by its underline; its text stands one line above.
    headings: Lines = {}
    lines = text.split("\n")
    for section in tree.findall(nodes.section):
        title = section.next_node(nodes.title)
        at = (title.line or section.line or 0) if title is not None else 0
        wanted = letters(title.astext()) if title is not None else ""
        near = [number for number in (at - 1, at, at - 2, at + 1) if 0 < number <= len(lines)]
        place = next((number for number in near if wanted[:10] and wanted[:10] in letters(lines[number - 1])), 0)
        if place or near:
            headings[place or near[0]] = title.astext() if title is not None else ""
    return _seen(headings, set(), len(lines))


def _seen(headings: Lines, filled: set[int], count: int) -> Seen:
    starts = sorted(headings)
    bodies = [
        (start, stop - 1)
        for start, stop in zip(starts, [*starts[1:], count + 1], strict=False)
        if any(line in filled for line in range(start + 1, stop))
    ]
    return Seen(headings, bodies)


def readings(kind: str, lines: list[str]) -> tuple[str, ...]:
    """Source lines as letters only, read in the ways in which an answer's words may stand side by side in them."""
    text = "\n".join(lines)
    if kind == "notebook":
        text = "\n".join(_string(line) for line in lines)
    if kind in ("html",):
        return (letters(html.unescape(_RAW_HTML.sub("", text))), letters(text))
    plain = _LINK_END.sub("", html.unescape(_ROLE_NAME.sub("", text)))
    no_html = _RAW_HTML.sub("", plain)
    words = re.sub(r"[~!]?(?:\w+\.)+(?=\w+(?:\(\))?`)", "", plain)  # `~a.b.Name` shows "Name"
    titles = re.sub(r"<[^<>`]*>`", "", plain)
    both = re.sub(r"<[^<>`]*>`", "", words)
    return tuple(
        dict.fromkeys(letters(form) for form in (text, plain, no_html, words, titles, both, _RAW_HTML.sub("", words)))
    )


def _string(line: str) -> str:
    bare = line.strip().rstrip(",")
    try:
        found = json.loads(bare)
    except ValueError:
        return line
    return found if isinstance(found, str) else line
