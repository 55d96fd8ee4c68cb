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

# Scripts by which a language is known, and small words that only one of the languages of Latin script has often.
_SCRIPTS = {
    "Japanese": re.compile(r"[\u3040-\u30ff\u31f0-\u31ff]"),
    "Korean": re.compile(r"[\uac00-\ud7af]"),
    "Cyrillic": re.compile(r"[\u0400-\u04ff]"),
    "Arabic": re.compile(r"[\u0600-\u06ff]"),
    "Thai": re.compile(r"[\u0e00-\u0e7f]"),
    "Greek": re.compile(r"[\u0370-\u03ff]"),
    "Hindi": re.compile(r"[\u0900-\u097f]"),
}
_SMALL_WORDS = {
    "French": "le la les un une des du de et est dans pour que qui avec sur pas il elle ce cette sont aux ou par en au",
    "German": "der die das und ist nicht ein eine mit den dem zu auf für von werden wird sich auch als oder im des",
    "Spanish": "el la los las un una de y es en que para con se por del al como más su lo hay son está o",
    "Portuguese": "o a os as um uma de e é em que para com se por do da não mais como são na no dos das",
    "Italian": "il la i gli le un una di e è in che per con si da non del della sono come più nel al",
}
_ENGLISH_WORDS = frozenset(
    re.findall(
        r"\w+",
        """the a an of to and is are was were in on for with that this it as by be or from at you your can not have
        has""",
    )
)
_ANY_SCRIPT = re.compile(r"[\u0370-\u04ff\u0600-\u06ff\u0900-\u097f\u0e00-\u0e7f\u3040-\u30ff\uac00-\ud7af]")
_SMALL = {name: frozenset(words.split()) for name, words in _SMALL_WORDS.items()}
MIN_FOREIGN_WORDS, MIN_FOREIGN_LETTERS = 12, 20

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
    other = len(_OTHER_LETTER.findall(text))
    # However many Latin words there may be, they cannot outweigh so many Han characters.
    if han and not other and han >= MIN_HAN_SHARE * (han + (len(text) - han) // 2 + 1):
        return "zh"
    words = _LATIN_WORD.findall(text)
    if other > 0.2 * (han + other) and other > len(words):
        return "other"
    if han and han >= MIN_HAN_SHARE * (han + len(words)):
        return "other" if len(_KANA_OR_HANGUL.findall(text)) > 0.1 * han else "zh"
    if not words:
        return "other"
    accented = len(_ACCENTED.findall(text))
    return "other" if accented > max(MAX_ACCENTED, MAX_ACCENTED_SHARE * sum(map(len, words))) else "en"


def foreign_language(text: str) -> str | None:
    """The language or script of a text that is plainly neither Chinese nor English; None when there is any doubt."""
    if not text.isascii() and _ANY_SCRIPT.search(text):
        letters = sum(map(str.isalpha, text))
        for name, script in _SCRIPTS.items():
            count = len(script.findall(text))
            # Japanese is written with Han characters too.
            if count >= MIN_FOREIGN_LETTERS and count > (0.3 if name == "Japanese" else 0.6) * letters:
                return name
    if " the " in text or "，" in text or "。" in text:  # English, Chinese: most texts
        return None
    words = [word for word in re.findall(r"[^\W\d_]+", text.lower()) if len(word) > 1]
    if len(words) < MIN_FOREIGN_WORDS or sum(word in _ENGLISH_WORDS for word in words) > 0.1 * len(words):
        return None
    shares = {name: sum(word in small for word in words) / len(words) for name, small in _SMALL.items()}
    name = max(shares, key=shares.__getitem__)
    return name if shares[name] >= 0.2 and len(_SMALL[name].intersection(words)) >= 3 else None
