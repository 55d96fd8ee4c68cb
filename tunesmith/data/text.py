"""Markdown's inline marks to plain text, and the ends of sentences.

The normalisation, stated once: links and images become their text, emphasis loses
its marks, HTML tags, comments and footnote marks go, escapes and entities become
their character. Code spans keep their backticks. A newline stays a newline, so that
lines can be counted; `comparable` drops everything but letters and digits and is
how an answer is found in its source.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection

_SPECIAL = re.compile(r"[\[\]!*_<&\\`~{]")
_SPECIAL_BUT_CODE = re.compile(r"[\[\]!*_<&\\~{]")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.{1,600}?)(?<!`)\1(?!`)", re.DOTALL)
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_KEPT = re.compile("\x00(\\d+)\x00")
_COMMENT = re.compile(r"<!--.{0,4000}?-->", re.DOTALL)
_BREAK = re.compile(r"<br\s*/?>[ \t]*(\n?)", re.IGNORECASE)
_AUTOLINK = re.compile(r"<((?:https?|ftp|mailto):[^<>\s]{1,2000}|[^<>\s@]{1,64}@[^<>\s@]{1,200})>")
_TAG_NAMES = (
    "a|abbr|article|aside|audio|b|big|blockquote|button|center|cite|code|col|colgroup|dd|del|details|dfn|div|dl|dt|em"
    "|figcaption|figure|font|footer|h[1-6]|header|hr|i|iframe|img|input|ins|kbd|label|li|main|mark|nav|ol|p|picture|pre"
    "|q|s|samp|section|small|source|span|strike|strong|style|sub|summary|sup|svg|path|table|tbody|td|tfoot|th|thead|tr"
    "|tt|u|ul|var|video|wbr"
)
# `<name>` in prose is a placeholder that its author meant to be read: only known tags and MDX components go.
_TAG = re.compile(
    rf"</?(?:{_TAG_NAMES})(?:\s[^<>]{{0,2000}})?/?>"
    r"|</[A-Z][\w.]{0,60}>|<[A-Z][\w.]{0,60}(?:\s[^<>]{0,2000}/?|/)>"
)
# Possessive: what was taken is never given back, so that a text full of brackets takes linear time.
_DESTINATION = (
    r"\(\s*(?:<[^<>\n]{0,2000}+>|(?:[^()\s]++|\([^()\s]{0,500}+\)){0,100}+)"
    r"(?:\s+(?:\"[^\"]{0,500}\"|'[^']{0,500}'))?\s*\)"
)
_IMAGE = re.compile(rf"!\[([^\[\]]{{0,500}})\](?:{_DESTINATION}|\[[^\[\]]{{0,200}}\])")
_LINK = re.compile(rf"\[((?:[^\[\]]++|\[[^\[\]]{{0,200}}+\]){{0,50}}+)\]{_DESTINATION}")
_LINK_BRACKET = re.compile(
    rf" ?[(（]\s*(?:see also|see|参照|参考|参见|详见)[:：\s]*(?:\[[^\[\]]{{0,300}}\]{_DESTINATION}[\s,，、]*)+[)）]",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"\[([^\[\]]{1,500})\](?:\[([^\[\]]{0,200})\])?")
_WIKI = re.compile(r"!?\[\[([^\[\]|]{1,300})(?:\|([^\[\]|]{1,300}))?\]\]")
_FOOTNOTE = re.compile(r"\[\^[^\[\]\s]{1,60}\](?!:)")
_STRONG = re.compile(
    r"\*\*((?:[^*\n]|\n(?!\s*\n)|\*(?!\*)){1,600}?)\*\*|(?<!\w)__(?![a-z0-9_]+__)([^_\n](?:[^_]|_(?!_)){0,600}?)__(?!\w)"
)
_EMPHASIS = re.compile(
    r"(?<![A-Za-z0-9*\\])\*(?![\s*])([^*\n]{0,399}[^*\s])\*(?![A-Za-z0-9*])"
    r"|(?<![\w\\])_(?![\s_])([^_\n]{0,399}[^_\s])_(?!\w)"
)
_STRIKE = re.compile(r"~~([^~\n]{1,400})~~")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_SHORTCODE = re.compile(r"\{\{[<%].{0,400}?[%>]\}\}|\{%.{0,400}?%\}|\{[#:][^{}\n]{1,200}\}|\{\{ ?\$[^{}\n]{1,100}\}\}")
_FILE_NAME = re.compile(r"[\w.\- ]{0,200}\.(?:png|jpe?g|gif|svg|webp|bmp)", re.IGNORECASE)
_EMPTY_BRACKETS = re.compile(r" ?[(（]\s*[)）]")
_TRAILING = re.compile(r"[ \t]+(?=\n)")

# What is left of a pointer to another page once its link is text.
_POINTER_LINE = re.compile(
    r"\s*(?:[-*+>]\s*)?(?:参照文档|参照文檔|参考文档|相关文档|参考链接|相关链接|See also|Related docs|Further reading)"
    r"\s*[:：].*",
    re.IGNORECASE,
)
_POINTER_WORDS = ("参照", "参考", "相关", "see also", "related docs", "further reading")
_POINTER_BRACKET = re.compile(r" ?[(（](?:参照文档|参照文檔|参考文档)[:：]?[^()（）\n]{0,200}[)）]")
_URL = re.compile(r"https?://[^\s<>()（）\[\]、。，]+")

_SENTENCE_END = re.compile(r"[。！？…]+[\"'”’」』)\]）]*|[.!?]+[\"'”’)\])]*(?=\s|$)|\n")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|Dr|Mr|Mrs|Ms|No|Fig|St|Inc|Ltd|Jr)|\b[A-Z])\.$")
_BOX = re.compile(r"[\u2500-\u257f|]")  # a drawing or a table: its lines stand alone
FULL_LINE = 60  # columns from which a line counts as broken for want of room
_NOT_LETTERS = re.compile(r"[\W_]+")


def plain_inline(text: str, references: Collection[str] = ()) -> str:
    """`text` without Markdown's inline marks; as many lines as before.

    Args:
        text: one block's source, with its newlines.
        references: the labels, upper case, for which the document defines a link.
    """
    if not _SPECIAL.search(text):
        return _without_trailing(text)
    kept: list[str] = []
    keep = _keeper(kept)
    if "`" in text:
        around = _CODE.sub(lambda match: keep(match.group()), text)
        if not _SPECIAL_BUT_CODE.search(around):
            return _without_trailing(text)  # code spans are all there is, and they stay
        text = around
    if "\\" in text:
        text = text.replace("\\\n", "\n")
        text = _ESCAPE.sub(lambda match: keep(match.group(1)), text)
    if "{" in text:
        text = _SHORTCODE.sub(_newlines, text)
    if "<" in text:
        text = _without_tags(text)
    if "[" in text:
        text = _without_links(text, references, kept)
    if "*" in text or "_" in text:
        text = _STRONG.sub(_first_group, text) if "**" in text or "__" in text else text
        text = _EMPHASIS.sub(_first_group, text) if "*" in text or "_" in text else text
    if "~~" in text:
        text = _STRIKE.sub(r"\1", text)
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match.group()).replace("\n", " "), text)
    if kept:
        # A link's text may hold code: what was kept may hold something kept.
        text = _KEPT.sub(lambda match: kept[int(match.group(1))], text)
    return _without_trailing(text)


def _without_trailing(text: str) -> str:
    text = text.rstrip(" \t")
    return _TRAILING.sub("", text) if " \n" in text or "\t\n" in text else text


def _keeper(kept: list[str]) -> Callable[[str], str]:
    def keep(part: str) -> str:
        kept.append(part)
        return f"\x00{len(kept) - 1}\x00"

    return keep


def _first_group(match: re.Match[str]) -> str:
    return next((group for group in match.groups() if group is not None), "")


def _newlines(match: re.Match[str]) -> str:
    return "\n" * match.group().count("\n")


def _without_tags(text: str) -> str:
    text = _COMMENT.sub(_newlines, text)
    text = _BREAK.sub(lambda match: match.group(1) or " ", text)
    text = _AUTOLINK.sub(r"\1", text)
    return _TAG.sub(_newlines, text)


def _without_links(text: str, references: Collection[str], kept: list[str]) -> str:
    if "[^" in text:
        text = _FOOTNOTE.sub("", text)
    if "[[" in text:
        text = _WIKI.sub(lambda match: match.group(2) or match.group(1), text)
    if "](" in text or "][" in text:
        if "![" in text:
            text = _IMAGE.sub(lambda match: "" if _FILE_NAME.fullmatch(match.group(1)) else match.group(1), text)
        text = _LINK.sub(r"\1", _LINK_BRACKET.sub("", text))
        text = _EMPTY_BRACKETS.sub("", text) if "(" in text or "（" in text else text
    if references:
        text = _REFERENCE.sub(lambda match: _resolved(match, references, kept), text)
    return text


def _resolved(match: re.Match[str], references: Collection[str], kept: list[str]) -> str:
    label = _KEPT.sub(lambda code: kept[int(code.group(1))], match.group(2) or match.group(1))
    label = " ".join(label.split()).upper()
    return match.group(1) if label in references else match.group()


def without_pointers(text: str) -> str:
    """`text` without lines and brackets that only point to another page ("参照文档:…", "(see …)" around a link).

    Called on text whose links are text already, and only for blocks that held a link or name such a page.
    """
    lines = [line for line in text.split("\n") if not _POINTER_LINE.fullmatch(line)]
    return _POINTER_BRACKET.sub("", "\n".join(lines)).strip("\n")


def has_pointer(text: str) -> bool:
    """Whether `without_pointers` would take something away."""
    lower = text.lower()
    if not any(word in lower for word in _POINTER_WORDS):
        return False
    return any(_POINTER_LINE.fullmatch(line) for line in text.split("\n")) or bool(_POINTER_BRACKET.search(text))


def without_urls(text: str) -> str:
    """`text` without bare addresses."""
    return _URL.sub("", text)


def comparable(text: str) -> str:
    """Letters and digits only, in lower case: how an answer is looked for in its source."""
    return _NOT_LETTERS.sub("", text).lower()


def width(text: str) -> int:
    """Columns on a screen: a Han character takes two."""
    return len(text) if text.isascii() else sum(2 if char >= "\u1100" else 1 for char in text)


def unwrap(text: str, source: str | None = None) -> str:
    """Join lines that were broken only because they were full (60 columns or more). Indentation is kept.

    Args:
        source: the same lines before their marks were taken away, which is how full they were.
    """
    if "\n" not in text:
        return text
    lines = text.split("\n")
    written = source.split("\n") if source is not None else lines
    if len(written) != len(lines):
        written = lines
    joined = [lines[0]]
    for previous, line in zip(written, lines[1:], strict=False):
        bare = line.strip()
        standing = _ITEM_START.match(bare) or _BOX.match(previous.strip()) or _BOX.match(bare)
        if not bare or standing or width(previous.strip()) < FULL_LINE:
            joined.append(line)
        else:
            glue = "" if _is_wide(joined[-1][-1:]) and _is_wide(bare[0]) else " "
            joined[-1] += glue + bare
    return "\n".join(joined)


_ITEM_START = re.compile(r"(?:[-*+•·]|\d{1,3}[.)、]|[├└│┌])\s?|(?:Q|A|问|答)\d*\s?[:：]")


def _is_wide(char: str) -> bool:
    return char >= "\u2e80"


def cut_at_sentence(text: str, limit: int) -> str:
    """The longest beginning of `text` within `limit` characters that ends with a sentence or line; may be empty."""
    if len(text) <= limit:
        return text
    best = 0
    for match in _SENTENCE_END.finditer(text, 0, limit + 1):
        if match.end() > limit:
            break
        if not _ABBREVIATION.search(text, max(0, match.start() - 8), match.end()):
            best = match.end()
    return text[:best].rstrip()


def sentences(text: str) -> list[str]:
    """The sentences of one paragraph, in order, with their final punctuation."""
    found: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text, max(0, match.start() - 8), match.end()):
            found.append(text[start : match.end()].strip())
            start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def is_linked(raw: str) -> bool:
    """Whether most of what Markdown source `raw` says is links and addresses."""
    if "](" not in raw and "://" not in raw and "][" not in raw:
        return False
    pointing = sum(len(match.group()) for pattern in (_LINK, _URL) for match in pattern.finditer(raw))
    if pointing < 0.4 * len(raw):
        return False
    said = len(comparable(plain_inline(raw)))
    own = len(comparable(_URL.sub("", _LINK.sub("", _IMAGE.sub("", raw)))))
    return own < 0.35 * max(said, 1)
