"""Text that was read in the wrong encoding."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from tunesmith.data.checks.findings import Finding

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f\ufffd\ufffe\uffff]")
# UTF-8 read as Latin-1 or Windows-1252: a lead byte's letter, then the signs of continuation bytes.
_SIGNS = (
    "\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201e\u2020-\u2022"
    "\u2026\u2030\u2039\u203a\u20ac\u2122"
)
_LATIN = re.compile(rf"[\u00c2\u00c3][{_SIGNS}]|\u00e2\u20ac[{_SIGNS}]|[\u00e3-\u00ef][{_SIGNS}]{{2}}")
# What the commonest Chinese characters and signs become when UTF-8 is read as GBK.
_GBK_SIGN = re.compile("[锛銆鐨鏄鍦鍜鎴浠鏈鏉鍙涓浣犲濂絾鎵琛绗绔闂鍥鐢]")
_HAN_RUN = re.compile(r"[\u4e00-\u9fff\u20ac\u3001-\u3011\ue000-\uf8ff]{4,}")
_NOTORIOUS = re.compile("锟斤拷|烫烫烫|屯屯屯|锘縖|\u00ef\u00bb\u00bf")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){3,}")
_QUESTION_MARKS = re.compile(r"\?{2,}")


def encoding_findings(texts: Collection[str]) -> Iterator[Finding]:
    """encoding_damage, at most once."""
    for text in texts:
        if problem := _damage(text):
            yield Finding("encoding_damage", problem)
            return


def _damage(text: str) -> str | None:
    if _CONTROL.search(text):
        return "It holds control characters or the replacement character."
    if not text.isascii():
        if _NOTORIOUS.search(text):
            return "It holds what broken encodings leave behind."
        if _LATIN.search(text) and _reads_as_utf8(text):
            return "It is UTF-8 that was read as Latin-1."
        if len(_GBK_SIGN.findall(text)) >= 2 and _is_utf8_read_as_gbk(text):
            return "It is UTF-8 that was read as GBK."
    if "\\u" in text and _ESCAPES.search(text) and "`" not in text:
        return "It holds \\u escapes instead of characters."
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


def _is_utf8_read_as_gbk(text: str) -> bool:
    for match in _HAN_RUN.finditer(text):
        raw = match[0].encode("gb18030", "ignore")
        decoded = raw.decode("utf-8", "ignore")
        if len(decoded.encode("utf-8")) >= len(raw) * 0.6 and re.search(r"[\u4e00-\u9fff]", decoded):
            return True
    return False
