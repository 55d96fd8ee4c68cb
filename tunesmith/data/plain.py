"""Plain text to headings and blocks: pages pasted without their Markdown, letters, logs.

Headings can only be guessed here, and a false one tears a text apart; so a line is taken for one
only when it is underlined, labelled ("知识点1:…", "Chapter 3"), given in two languages with a
slash, or short and alone between blank lines above prose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tunesmith.data.code_lines import is_code_line
from tunesmith.data.headings import is_passed_over
from tunesmith.data.language import HAN
from tunesmith.data.prose import text_blocks
from tunesmith.data.sections import Block, Heading
from tunesmith.data.text import width

_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_ATX = re.compile(r"(?:\A|\n[ \t]*\n|\A(?:[ \t]*\n)*)#{1,6} \S")
_DEEP_ATX = re.compile(r"(?:\A|\n[ \t]*\n|\A(?:[ \t]*\n)*)##{1,5} \S")
_MARKS = re.compile(
    r"\]\([^()\n]{1,300}\)|\*\*[^*\s][^*\n]{0,200}\*\*|^\|?[ :\-|]{0,100}-{3,}[ :\-|]{0,100}\|[ :\-|]{0,100}$"
    r"|^[^\n]{1,80}\n={3,}$|^---$"
    r"|^- \[[ x]\] |<!--|</\w+>",
    re.MULTILINE,
)
_RST_DIRECTIVE = re.compile(r"^\.\. [\w-]{2,30} ?::", re.MULTILINE)
_NUMBER = r"[\d一二三四五六七八九十]{1,3}"
_LABELLED = re.compile(
    rf"(?:知识点|要点|主题|模块)\s?{_NUMBER}\s?[:：.、]\s*\S|第\s?{_NUMBER}\s?[章节篇讲课][:：\s]\s*\S|(?:Chapter|Section|Part)\s(?:\d+|[IVX]+)\b",
    re.IGNORECASE,
)
_REFLECTION = re.compile(rf"(?:思考|反思|感悟|Reflection|Thought)\s?{_NUMBER}\s?[:：]\s*\S", re.IGNORECASE)
_CHINESE_LIST = re.compile(r"([一二三四五六七八九十]{1,3})、\s*\S")
_UNDERLINE = re.compile(r"(={3,}|-{3,}|~{3,})\s*$")
_BILINGUAL = re.compile(r"(?P<left>\S.{0,60}?)\s/\s(?P<right>[A-Z].{0,80})")
_NEVER = re.compile(r"[-*+•·#>|\"'`\u2500-\u257f\u2190-\u21ff\u2600-\u27bf]|\d{1,3}[.)、]|https?://|[^\w“「『《(（]")
_SENTENCE_MARKS = re.compile(r"[。.!！;；,，:：、…]$")
_CODE_MARKS = re.compile(r"[{}`\"\\]|\w\(|==|::|\bhttps?:|</?\w")
_HAN = re.compile(f"[{HAN}]")
_SMALL_WORDS = (
    "a",
    "an",
    "the",
    "and",
    "or",
    "of",
    "to",
    "in",
    "on",
    "at",
    "for",
    "with",
    "from",
    "by",
    "vs",
    "is",
    "as",
)
_MAX_COLUMNS = 70


def is_markdown(text: str, *, named_so: bool) -> bool:
    """Whether a text should be read as Markdown.

    A `.md` file is, unless it has no mark of it at all (a pasted page); a `.txt` file is only when it has fences or
    headings of its own lines: `# comment` lines of pasted code are no headings.
    """
    if named_so and _ATX.search(text):  # most are told by their first heading
        return True
    if len(_FENCE.findall(text)) >= 2 or len(_DEEP_ATX.findall(text)) >= 2:
        return True
    return named_so and _MARKS.search(text) is not None


def is_rst(text: str) -> bool:
    """Whether a `.txt` file is reStructuredText: it has directives of its own lines."""
    return _RST_DIRECTIVE.search(text) is not None and not _FENCE.search(text)


def read_plain(text: str, first_line: int = 1) -> tuple[str, list[Heading | Block]]:
    """The title (the first line, where it looks like one), and headings and blocks in order."""
    lines = text.split("\n")
    title, body_start, found = _opening(lines, first_line)
    guessed = _headings(lines, body_start, first_line)
    parts: list[Heading | Block] = list(found)
    position = body_start
    for start, past, heading in guessed:
        parts += text_blocks(lines[position:start], position + first_line)
        parts.append(heading)
        position = past
    parts += text_blocks(lines[position:], position + first_line)
    return title, parts


def _opening(lines: Sequence[str], first_line: int) -> tuple[str, int, list[Heading]]:
    """The title line, where the rest begins, and the title as a heading."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    if len(filled) < 2:
        return "", 0, []
    first = filled[0]
    top = lines[first].strip()
    underlined = bool(_UNDERLINE.fullmatch(lines[first + 1])) if first + 1 < len(lines) else False
    if underlined or not _may_be_heading(top) or is_code_line(top):
        return "", 0, []
    repeats = lines[filled[1]].strip()
    if filled[1] == first + 1 and repeats.startswith(top) and width(repeats) <= 2 * _MAX_COLUMNS:
        # A pasted page often has its title in the tab, the breadcrumbs and the heading.
        last = max(number for number in filled[1:5] if number == filled[1] or lines[number].strip() == repeats)
        return repeats, last + 1, [Heading(repeats, 1, filled[1] + first_line)]
    if filled[1] > first + 1 and len(filled) > 2:
        return top, first + 1, [Heading(top, 1, first + first_line)]
    return "", 0, []


def _headings(lines: Sequence[str], start: int, first_line: int) -> list[tuple[int, int, Heading]]:
    """Headings as (first, past the last line, heading), in order."""
    found: list[tuple[int, int, Heading]] = []
    chinese_list = _chinese_list_is_outline(lines[start:])
    lone = _lone_lines(lines, start)
    labelled = False
    index = start
    while index < len(lines):
        bare = lines[index].strip()
        level, taken = 0, 1
        if not bare or len(lines[index]) - len(lines[index].lstrip()) > 3:
            index += 1
            continue
        if index + 1 < len(lines) and _underlines(bare, lines, index):
            level, taken = (1 if lines[index + 1].startswith("=") else 2), 2
        elif _LABELLED.match(bare) and _may_be_heading(bare, colons=True):
            level, labelled = 2, True
        elif _REFLECTION.match(bare) and _may_be_heading(bare, colons=True):
            level = 3
        elif _is_bilingual(bare):
            level = 3 if labelled and not is_passed_over(bare) else 2
        elif (chinese_list and _CHINESE_LIST.match(bare) and _may_be_heading(bare)) or index in lone:
            level = 2
        if level:
            found.append((index, index + taken, Heading(bare, level, index + first_line)))
        index += taken
    return found


def _may_be_heading(bare: str, *, colons: bool = False) -> bool:
    return (
        len(bare) >= 2
        and width(bare) <= _MAX_COLUMNS + 20 * colons
        and not _SENTENCE_MARKS.search(bare)
        and not _NEVER.match(bare)
        and not _CODE_MARKS.search(bare)
    )


def _underlines(bare: str, lines: Sequence[str], index: int) -> bool:
    match = _UNDERLINE.fullmatch(lines[index + 1])
    alone = index == 0 or not lines[index - 1].strip() or bool(_UNDERLINE.fullmatch(lines[index - 1]))
    return bool(match) and alone and _may_be_heading(bare) and len(match[1]) >= 0.6 * len(bare)


def _is_bilingual(bare: str) -> bool:
    """ "环境准备 / Environment Setup": Han on one side only, a title in English on the other."""
    match = _BILINGUAL.fullmatch(bare)
    if not match or not _HAN.search(match["left"]) or _HAN.search(match["right"]):
        return False
    words = [word for word in match["right"].split() if word[0].isalpha()]
    titled = [word for word in words if word[0].isupper() or word.lower() in _SMALL_WORDS]
    return _may_be_heading(bare.rstrip("?？"), colons=True) and bool(words) and len(titled) >= 0.7 * len(words)


def _chinese_list_is_outline(lines: Sequence[str]) -> bool:
    """Whether "一、", "二、" … come in order on short lines with text between them."""
    numbers = [
        (number, match[1])
        for number, line in enumerate(lines)
        if (match := _CHINESE_LIST.match(line.strip())) and _may_be_heading(line.strip())
    ]
    in_order = [number for _line, number in numbers] == list("一二三四五六七八九十")[: len(numbers)]
    apart = all(later[0] - earlier[0] > 1 for earlier, later in pairwise(numbers))
    return len(numbers) >= 2 and in_order and apart


def _lone_lines(lines: Sequence[str], start: int) -> set[int]:
    """Short lines between blank lines, each above prose; none when the text is mostly short lines anyway."""
    lone: set[int] = set()
    paragraphs = 0
    after_prose = True  # above a heading stands prose, or nothing: not another short line
    for index in range(start, len(lines)):
        bare = lines[index].strip()
        if not bare or (index > 0 and lines[index - 1].strip()):
            continue
        paragraphs += 1
        above_is_prose, after_prose = after_prose, _is_prose(_paragraph(lines, index))
        alone = index + 1 < len(lines) and not lines[index + 1].strip()
        if alone and _may_be_heading(bare) and _is_title(bare) and _prose_follows(lines, index + 2) and above_is_prose:
            lone.add(index)
    return lone if len(lone) <= 0.5 * paragraphs else set()


def _is_title(bare: str) -> bool:
    if _HAN.search(bare):
        return width(bare) <= 40
    words = bare.split()
    return bare[0].isupper() and len(words) <= 9 and any(char.isalpha() for char in bare)


def _prose_follows(lines: Sequence[str], start: int) -> bool:
    paragraph = _paragraph(lines, start)
    return width(" ".join(paragraph)) >= 40 and not all(map(is_code_line, paragraph))


def _is_prose(paragraph: Sequence[str]) -> bool:
    text = " ".join(paragraph)
    return width(text) >= 40 or bool(re.search(r"[。.!！?？][\"”」)]?$", text))


def _paragraph(lines: Sequence[str], start: int) -> list[str]:
    """The lines of the paragraph at or after `start`."""
    paragraph: list[str] = []
    for index in range(start, len(lines)):
        if lines[index].strip():
            paragraph.append(lines[index].strip())
        elif paragraph:
            break
    return paragraph
