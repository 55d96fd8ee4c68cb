"""Text that was read in the wrong encoding."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from tunesmith.data.checks.findings import Finding

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd\ufffe\uffff]")
# UTF-8 read as Latin-1 or Windows-1252: a lead byte's letter, then the signs of continuation bytes.
_SIGNS = (
    "\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201e\u2020-\u2022"
    "\u2026\u2030\u2039\u203a\u20ac\u2122"
)
_LATIN = re.compile(rf"[\u00c2\u00c3][{_SIGNS}]|[\u00e2-\u00ef][{_SIGNS}]{{2}}")
# What the commonest Chinese characters and signs become when UTF-8 is read as GBK.
_GBK_SIGN = re.compile("[锛銆鐨鏄鍦鍜鎴浠鏈鏉鍙涓浣犲濂絾鎵琛绗绔闂鍥鐢]")
_HAN_RUN = re.compile(r"[\u4e00-\u9fff\u20ac\u3001-\u3011\ue000-\uf8ff]{4,}")
_NOTORIOUS = re.compile("锟斤拷|烫烫烫|屯屯屯|锘縖|\u00ef\u00bb\u00bf")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){3,}")
# In prose even one of these signs is a character that was never turned back.
_ONE_ESCAPE = re.compile(
    r"\\u(?:00[a-fA-F][0-9a-fA-F]|20[0-9a-fA-F]{2}|[4-9][0-9a-fA-F]{3}|30[0-3][0-9a-fA-F]|[fF]{2}[0-6][0-9a-fA-F])"
)
_HEX_ESCAPE = re.compile(r"[A-Za-z]\\x[89a-fA-F][0-9a-fA-F](?![0-9a-fA-F])")
_ABOUT_ESCAPES = re.compile(r"(?i)unicode|escape|json|regex|encod|utf|hex|print\(|import |转义|编码|正则|字符集")
# GBK read as Latin-1: pairs of accented letters and signs that are common Chinese characters.
_GBK_AS_LATIN = re.compile("(?:[\u00b0-\u00d7][\u00a1-\u00fe]|[\u00a1\u00a3][\u00a1-\u00fe]){2,}")
# The same backwards, for a word: GBK characters whose bytes begin a Chinese character or sign of UTF-8.
_GBK_LEADS = re.compile(
    "["
    + "".join(
        bytes((lead, trail)).decode("gbk", "ignore")
        for lead in (0xE2, 0xE3, *range(0xE4, 0xEA), 0xEF)
        for trail in range(0x80, 0xC0)
        if trail != 0x7F
    )
    + "]"
)
_QUESTION_MARKS = re.compile(r"\?{2,}")


def encoding_findings(texts: Collection[str]) -> Iterator[Finding]:
    """encoding_damage, at most once."""
    for text in texts:
        if problem := _damage(text):
            yield Finding("encoding_damage", problem)
            return


def damaged_part(text: str) -> Iterator[tuple[int, int]]:
    """Where a text looks damaged, from where to before where."""
    for pattern in (
        *(_CONTROL, _NOTORIOUS, _GBK_AS_LATIN, _LATIN, _ESCAPES, _ONE_ESCAPE, _HEX_ESCAPE, _QUESTION_MARKS),
        *(_GBK_SIGN, _GBK_LEADS),
    ):
        found = [match.span() for match in pattern.finditer(text)]
        if found:
            yield from found
            return


def _damage(text: str) -> str | None:
    if _CONTROL.search(text):
        return "It holds control characters or the replacement character."
    if not text.isascii():
        if _NOTORIOUS.search(text):
            return "It holds what broken encodings leave behind."
        if _LATIN.search(text) and _reads_as_utf8(text):
            return "It is UTF-8 that was read as Latin-1."
        if any(_is_common_chinese(match[0].encode("latin-1")) for match in _GBK_AS_LATIN.finditer(text)):
            return "It is GBK that was read as Latin-1."
        if len(_GBK_SIGN.findall(text)) >= 2 and _is_utf8_read_as_gbk(text):
            return "It is UTF-8 that was read as GBK."
        if any(_is_garbled_word(text[match.start() : match.start() + 3]) for match in _GBK_LEADS.finditer(text)):
            return "It is UTF-8 that was read as GBK."
    if "\\u" in text and _ESCAPES.search(text) and "`" not in text:
        return "It holds \\u escapes instead of characters."
    if (
        "\\" in text
        and (_ONE_ESCAPE.search(text) or _HEX_ESCAPE.search(text))
        and not ("`" in text or _ABOUT_ESCAPES.search(text))
    ):
        return "It holds an escape instead of a character."
    marks = text.count("?")
    if marks >= 6 and marks > len(text) / 5 and _QUESTION_MARKS.search(text):
        return "Most of its characters became question marks."
    return None


def _reads_as_utf8(text: str) -> bool:
    """Whether a piece that looks like Latin-1 mojibake turns into sensible text again."""
    for match in re.finditer(rf"[\u00c2-\u00ef{_SIGNS}]{{2,}}", text):
        piece = match[0]
        for encoding in ("cp1252", "latin-1"):
            try:
                piece.encode(encoding).decode("utf-8")
            except UnicodeError:
                continue
            return True
    # Windows-1252 has five holes; a piece that falls into one can't be turned back. Three signs are proof enough.
    return len(_LATIN.findall(text)) >= 3


def _is_common_chinese(raw: bytes) -> bool:
    """Whether GBK bytes are Chinese as it is mostly written: characters of the first level and punctuation."""
    try:
        text = raw.decode("gb2312")
    except UnicodeError:
        return False
    return all(char.encode("gb2312") < b"\xd8" for char in text) and bool(re.search(r"[\u4e00-\u9fff]", text))


def _is_garbled_word(three: str) -> bool:
    """Whether three characters are two common Chinese ones, or signs, read wrongly; one must be rare in itself."""
    try:
        raw = three.encode("gbk")
        text = raw.decode("utf-8")
    except UnicodeError:
        return False
    if len(raw) != 6 or len(text) != 2 or all(_is_gb2312(char) for char in three):
        return False
    return all(_is_gb2312(char) and char.encode("gb2312") < b"\xd8" for char in text)


def _is_gb2312(char: str) -> bool:
    try:
        char.encode("gb2312")
    except UnicodeError:
        return False
    return True


def _is_utf8_read_as_gbk(text: str) -> bool:
    for match in _HAN_RUN.finditer(text):
        raw = match[0].encode("gb18030", "ignore")
        decoded = raw.decode("utf-8", "ignore")
        if len(decoded.encode("utf-8")) >= len(raw) * 0.6 and re.search(r"[\u4e00-\u9fff]", decoded):
            return True
    return False
