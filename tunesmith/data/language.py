"""Which language a text is written in: the one place that decides."""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["zh", "en", "other"]

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# A Han character carries about as much as a Latin word; technical Chinese is full of English terms.
MIN_HAN_SHARE = 0.3
# Beyond this many, and this share of, accented letters a Latin text is hardly English.
MAX_ACCENTED = 2
MAX_ACCENTED_SHARE = 0.02

_HAN_RUN = re.compile(f"[{HAN}]+")
_LATIN_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
_ACCENTED = re.compile(r"[\u00c0-\u024f]")
_KANA_OR_HANGUL = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\uac00-\ud7af]")
_OTHER_LETTER = re.compile(r"[\u0370-\u1fff\u2c00-\u2dff\u3040-\u30ff\u31f0-\u31ff\ua640-\ud7af]")


def language_of(text: str) -> Language:
    """The language of `text`, by its letters: Chinese, English, or anything else.

    Chinese when Han characters are at least 30 % of Han characters and Latin words
    together; English when Latin words without accents prevail; `other` for kana,
    Hangul, Cyrillic and the like, and for a text without any letter.
    """
    if text.isascii():
        return "en" if _LATIN_WORD.search(text) else "other"
    han = sum(map(len, _HAN_RUN.findall(text)))
    words = _LATIN_WORD.findall(text)
    other = len(_OTHER_LETTER.findall(text))
    if other > 0.2 * (han + other) and other > len(words):
        return "other"
    if han and han >= MIN_HAN_SHARE * (han + len(words)):
        return "other" if len(_KANA_OR_HANGUL.findall(text)) > 0.1 * han else "zh"
    if not words:
        return "other"
    accented = len(_ACCENTED.findall(text))
    return "other" if accented > max(MAX_ACCENTED, MAX_ACCENTED_SHARE * sum(map(len, words))) else "en"
