"""Sentences that only send the reader elsewhere ("See [the guide](…) for more.", "详见[文档](…)。").

An answer has no links, so such a sentence would promise what is not there. It is recognised in the
source, while its link can still be seen.
"""

from __future__ import annotations

import re

# Markdown links, addresses, and the roles of reStructuredText and MyST; possessive, so that they take linear time.
_LINK = (
    r"(?:\[[^\[\]\n]{1,300}+\](?:\([^()\s]{0,500}+\)|\[[^\[\]\n]{0,200}+\])|https?://\S{1,500}+"
    r"|\x03[^\x03\x04\n]{1,300}+\x04"
    r"|:[\w+.-]{1,40}+(?::[\w+.-]{1,40}+)?+:`[^`\n]{1,300}+`|\{[\w:]{1,40}+\}`[^`\n]{1,300}+`|`[^`\n]{1,300}+`__?)"
)
_EN = (
    r"(?:please\s|also\s|or\s)?(?:see|refer\sto|check\sout|visit|read\s(?:more|about|the)|learn\s(?:more|about|how)"
    r"|(?:(?:for|more|further)\s)+(?:(?:a|an|the|more|further|full|complete|additional|detailed)\s)*"
    r"(?:info|information|details?|notes|examples?|background|reading|list|description|explanation)"
    r"|related|docs|full\s(?:guide|docs|documentation|reference)|documentation|details|source|ref)\b"
)
_ZH = (
    r"(?:请|可|也|更多|有关|关于|具体|完整|另|如需|想要|相关|详细)[^。！？\n\[]{0,40}(?:参考|参见|参阅|参照|查看|阅读|看)"
    r"|参考|参见|参阅|参照|另见|另请参阅"
    r"|详见|详情(?:参|见|请)|查看|阅读|了解更多|更多(?:信息|详情|内容|细节)|完整(?:指南|文档|列表|参考)|相关(?:文档|链接|阅读)|文档[:：]"
)
# A hard-wrapped sentence goes on in a line that begins small; another line is another thing.
_REST = rf"(?:{_LINK}|[^.!?。！？\n\[]|[.!?](?!\s|\Z)|\[|\n(?=[ \t]*[a-z`(\[:]))"
_MARK = r"(?:[-*+>]\s|\d{1,3}[.)]\s)?(?:[^\w\s\[`<(:{]{1,3}\s?)?(?:\*\*|__|[*_])?"
_SENTENCE = re.compile(
    rf"(?:^(?P<mark>[ \t]*{_MARK})|(?<=[.!?:;)])[ \t]|(?<=[。！？；]))(?:{_EN}|{_ZH})"
    rf"(?:(?!{_LINK}){_REST}){{0,160}}+{_LINK}{_REST}{{0,160}}+"
    r"(?:[.!?](?=\s|\Z)|[。！？]|(?=\n(?![ \t]*[a-z`(\[:]))|\Z)",
    re.IGNORECASE | re.MULTILINE,
)
_MAY_POINT = re.compile(
    r"\b(?:see|refer|check out|visit|read|learn|info|information|details?|related|docs|documentation"
    r"|reading|source|ref)\b"
    r"|参[考见阅照]|[另详]见|查看|阅读|更多|相关|完整|文档",
    re.IGNORECASE,
)
# The same at a glance: looking for plain words is many times as fast.
_WORDS = (
    *("see", "ref", "check out", "visit", "read", "learn", "info", "detail", "related", "doc", "source"),
    *("参考", "参见", "参阅", "参照", "另见", "详见", "查看", "阅读", "更多", "相关", "完整", "文档"),
)
_LINK_MARKS = ("](", "][", "://", ":`", "}`", "`_", "\x03")
_BELOW = re.compile(
    r"[\s*_(（]*(?:see (?:below|above|next|notes?)\b.{0,40}|as (?:above|below)|n/?a|tbd|todo"
    r"|见[上下]文?|同上|如[上下]|详?见[上下][面文方]|待定|无)[\s.。)）*_]*",
    re.IGNORECASE,
)


def without_pointing(source: str) -> str:
    """A block's source without the sentences that only point elsewhere; as many lines as before.

    Links are those of Markdown, MyST and reStructuredText, or stand between `\\x03` and `\\x04` (HTML).
    """
    if not any(mark in source for mark in _LINK_MARKS):
        return source
    lower = source.lower()
    if not any(word in lower for word in _WORDS) or not _MAY_POINT.search(source):
        return source
    return _SENTENCE.sub(lambda match: "\n" * match.group().count("\n"), source)


def only_points(cell: str) -> bool:
    """Whether a table's cell says no more than "see below", "N/A" or the like."""
    return bool(_BELOW.fullmatch(cell))
