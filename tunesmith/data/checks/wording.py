"""Defects seen in the words of a row: markup, placeholders, cut-off answers, another language."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunesmith.data.checks.findings import Finding
from tunesmith.data.language import HAN, language_of
from tunesmith.data.records import Row

_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`", re.DOTALL)
_FENCE = re.compile(r"^ {0,3}```", re.MULTILINE)
_RULE_START = re.compile(r"(?:```|~~~|---|\*\*\*(?!\w)|___(?!\w)|\+\+\+\s)")
_RULE_END = re.compile(r"\n[ \t]*(?:-{3,}|\*{3,}|_{3,})\s*\Z")
_PAGE_MARKUP = re.compile(
    r"<!--|-->|!\[[^\]\n]*\]\([^)\n]+\)|^\[TOC\]|^\[\^[^\]\n]+\]:|\]\((?:\.{1,2}/|#)[^)\n]*\)"
    r"|\{%-?\s*\w+|^:::|^!!!\s+\w+|^\s*参照文档|（参照文档|</?(?:div|span|details|summary|center)\b",
    re.MULTILINE,
)
_PLACEHOLDER = re.compile(
    r"\{\{[^{}\n]{1,60}\}\}"
    r"|(?<![A-Za-z])(?:TODO|FIXME|TBD)(?![A-Za-z])(?! ?(?:list|app|item|清单|列表|应用|项))"
    r"|[Ll]orem [Ii]psum"
    r"|(?<![A-Za-z0-9./:_-])(?:X{3,}|x{4,})(?![A-Za-z0-9])"
    r"|<(?:[Yy]our|YOUR|[Ii]nsert|INSERT|[Pp]laceholder|PLACEHOLDER|请|此处|填)[^<>\n]{0,40}>"
    r"|\[(?:INSERT|Insert|insert|PLACEHOLDER|Placeholder|placeholder|请|此处|待|填)[^\[\]\n]{0,40}\]"
    r"|【(?:请|此处|待|填|插入)[^】\n]{0,30}】"
    r"|(?<![A-Za-z])your[_-](?:[\w-]+[_-])?here(?![A-Za-z])"
    r"|待补充|待完善|待填写|此处填写|此处省略|示例文本|占位文本"
)
_LETTER_PLACEHOLDER = re.compile(
    r"\[(?:[Yy]our|YOUR) [^\[\]\n]{1,40}\](?!\()|\[(?:Name|Date|Company|Company Name|Recipient|Address|Title)\](?!\()"
)
_END = "。！？!?.…」』”’\"')）】》]}>〉*`~|;；"
_OPEN_END = ",，、:：(（[{“‘「『《【—–&+/="
_ANY_SENTENCE_END = re.compile(r"[。！？](?=.)|[.!?][\"')\]]* (?=[A-Z\"'(])")
_LIST_ITEM = re.compile(
    r"\s*(?:[-*+•·]|[0-9]{1,3}[.)、．]|[（(][0-9一二三四五六七八九十]{1,3}[)）]|[一二三四五六七八九十]{1,3}、)\s*\S"
)
_CODE_LIKE = re.compile(r"[{};=<>\\$|`#]|\w\(|^\s{4}|://|^[A-Z0-9 _.-]+$")
_DANGLING_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the and or but nor of to in on at by for with from as is are was were be been being has have had that
        which who whose because if when while where than then such into onto about between through during without within
        via per its their his her your our my this these those can could will would shall should may might must not very
        more most""",
    )
)
_DANGLING_HAN = frozenset("和与或在把被将及以而但从并因若则其由且")
_ELLIPSIS = re.compile(r"(?:\.{3,}|…+)\Z")
_LAST_WORD = re.compile(r"[A-Za-z']+\Z")
_HAN = re.compile(f"[{HAN}]")
_LATIN_WORD = re.compile(r"[A-Za-z]{2,}")
_ASKS_FOR_LANGUAGE = re.compile(
    r"(?i)translat|language|chinese|english|mandarin|french|spanish|german|japanese|korean|russian|italian|portuguese|latin\b"
    r"|翻译|译[为成]|中译|英译|英文|英语|中文|汉语|法语|法文|日语|日文|德语|西班牙语|俄语|韩语|外语|语言|例句|造句|单词|短语|拼音|pinyin|双语|bilingual"
)
MIN_CUT_CHARS = 40


def wording_findings(row: Row, instruction: str, output: str) -> Iterator[Finding]:
    """markdown_residue, placeholder, truncated_output, language_mismatch."""
    prose = _CODE.sub(" ", output) if "`" in output or "~~~" in output else output
    if problem := _markdown_residue(output, prose):
        yield Finding("markdown_residue", problem)
    asked = _CODE.sub(" ", instruction) if "`" in instruction else instruction
    if _PLACEHOLDER.search(prose) or _LETTER_PLACEHOLDER.search(prose):
        yield Finding("placeholder", "The answer holds a placeholder that was never filled in.")
    elif _PLACEHOLDER.search(asked):
        yield Finding("placeholder", "The question holds a placeholder that was never filled in.")
    if problem := _truncation(output):
        yield Finding("truncated_output", problem)
    if problem := _mismatch(row, prose):
        yield Finding("language_mismatch", problem)


def _markdown_residue(output: str, prose: str) -> str | None:
    start = output.lstrip()
    if _RULE_START.match(start):
        if start.startswith(("---", "+++")) and re.match(r"(---|\+\+\+)\s*\n.*?\n\1\s*(?:\n|\Z)", start, re.DOTALL):
            return "The answer begins with front matter."
        return "The answer begins with a code fence or a rule."
    if "```" in output and len(_FENCE.findall(output)) % 2:
        return "A code fence is opened and not closed."
    if _RULE_END.search(output):
        return "The answer ends with a rule."
    if _PAGE_MARKUP.search(prose):
        return "Markup of the page is left: a comment, an image, an HTML tag or a link within the notes."
    return None


def _truncation(output: str) -> str | None:
    text = output.rstrip()
    if len(text) < MIN_CUT_CHARS:
        return None
    before, _, last = text.rpartition("\n")
    last = last.strip()
    if not last or last.startswith(("```", "~~~", "|", "#", ">")) or len(_FENCE.findall(before)) % 2:
        return None
    if _ELLIPSIS.search(last):
        return "The answer breaks off with an ellipsis." if len(text) >= 200 else None
    end = last[-1]
    if end in _END:
        return None
    if end in _OPEN_END:
        return None if _CODE_LIKE.search(last) and end in ":=+/&{[(" else f"The answer ends with {end!r}."
    word = _LAST_WORD.search(last)
    if (word and word[0] in _DANGLING_WORDS and " " in last) or end in _DANGLING_HAN:
        return "The answer ends in the middle of a sentence."
    if not (word or _HAN.match(end)) or _CODE_LIKE.search(last):
        return None
    return "The last sentence has no end, while the others do." if _others_end(before, last) else None


def _others_end(before: str, last: str) -> bool:
    """Whether the answer ends its sentences elsewhere: earlier in the last line, or in lines like it."""
    item = bool(_LIST_ITEM.match(last))
    body = re.sub(r"^\s*[0-9]{1,3}[.)] ", "", last)
    if not item and _ANY_SENTENCE_END.search(body):
        return True
    alike = [
        line.rstrip()
        for line in before.split("\n")
        if len(line.strip()) >= MIN_CUT_CHARS // 2 and bool(_LIST_ITEM.match(line)) == item
    ]
    return len(alike) >= 2 and len(last) >= 8 and all(line[-1] in "。！？!?." for line in alike)


def _mismatch(row: Row, answer: str) -> str | None:
    question = next((message.content for message in reversed(row.messages) if message.role == "user"), "")
    if question.isascii() and answer.isascii():
        return None
    asked = language_of(question)
    answered = language_of(answer)
    if asked == answered or "other" in (asked, answered):
        # Too little is known about the languages lumped together as "other", save that they have letters.
        return None
    if _ASKS_FOR_LANGUAGE.search(question) or any(
        message.role == "system" and _ASKS_FOR_LANGUAGE.search(message.content) for message in row.messages
    ):
        return None
    if not _is_plain(question, asked, 4) or not _is_plain(answer, answered, 12):
        return None
    names = {"zh": "Chinese", "en": "English"}
    return f"The question is {names[asked]}, the answer {names[answered]}."


def _is_plain(text: str, language: str, least: int) -> bool:
    """Whether `text` is clearly in one language: at least so many units of it, and few of the other."""
    han = len(_HAN.findall(text))
    words = len(_LATIN_WORD.findall(text))
    if language == "zh":
        return han >= least and words < han / 2
    code = sum(text.count(mark) for mark in "{}();=_<>")
    return words >= least and han < words / 4 and code < words / 2
