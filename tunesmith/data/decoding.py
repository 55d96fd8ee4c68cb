"""Bytes of an unknown encoding to text: a byte order mark first, then UTF-8, then a guess."""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the other's
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINARY_STARTS = (
    b"%PDF",
    b"PK\x03\x04",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"\x1f\x8b",
    b"\x7fELF",
    b"MZ",
    b"SQLite",
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_LINE_END = re.compile("\r\n?")
# ASCII without control characters, accented Latin, Greek, Cyrillic, punctuation, kana, Han, Hangul, full width.
_FAMILIAR = re.compile(
    "[\\t\\n\\r\\x20-\\x7e\u00a0-\u024f\u0370-\u04ff\u2010-\u2027\u2190-\u21ff\u2500-\u257f\u3000-\u30ff"
    "\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e]"
)
_WESTERN = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüÿßÀÁÂÄÅÆÇÈÉÊËÍÎÏÑÓÔÖØÚÜœŒ‘’“”–—…•«»°±²³µ·×½¼€£§©®™¡¿ \u00a0")
_MAX_BAD_SHARE = 0.01


def decode(data: bytes) -> str | None:
    """The text, its line ends `\\n`, without NUL and lone surrogates; None when it is not text.

    A few broken bytes in what is otherwise UTF-8 become U+FFFD: better than guessing another encoding.
    """
    text = _decoded(data)
    return None if text is None else tidy(text)


def tidy(text: str) -> str:
    """Line ends as `\\n`; NUL as U+FFFD; surrogate pairs joined and lone ones replaced."""
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    try:
        text.encode()  # several times as fast as looking for surrogates
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.removeprefix("\ufeff")


def _decoded(data: bytes) -> str | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            body = data[len(mark) :]
            text = body.decode(encoding, "surrogatepass" if encoding != "utf-8" and len(body) % 2 == 0 else "replace")
            return text if _is_text(text) else None
    if data.startswith(_BINARY_STARTS):
        return None
    if b"\0" in data[:65536]:
        return _without_mark(data)
    if len(_CONTROL.findall(data[:65536])) > 0.01 * min(len(data), 65536):
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _nearly_utf8(data) or _chinese(data) or _western(data) or _guessed(data)


def _without_mark(data: bytes) -> str | None:
    """UTF-16 without its mark: one byte order gives familiar characters, the other hardly any."""
    if len(data) % 2:
        return None
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if len(_FAMILIAR.findall(text[:65536])) >= 0.95 * min(len(text), 65536):
            return text
    return None


def _is_text(text: str) -> bool:
    sample = text[:65536]
    odd = sum(char < " " and char not in "\t\n\r\f\x1b" for char in sample) + sample.count("\ufffd")
    return odd <= 0.02 * max(len(sample), 50)


def _nearly_utf8(data: bytes) -> str | None:
    """UTF-8 with surrogates written as characters, or with few broken bytes among many good ones."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    good = sum(char > "\x7f" for char in text) - bad
    return text if good and bad <= max(1, _MAX_BAD_SHARE * good) else None


def _chinese(data: bytes) -> str | None:
    """GB18030, when the two-byte characters are those that Chinese is written with.

    Guessers need long texts to tell it from Big5 or Korean. Nearly all of simplified Chinese lies
    in the first 3,755 characters of GB 2312 (lead bytes B0 to D7), a third of it above C8, where
    Korean has nothing; Big5's second bytes are often ASCII, which GB 2312 never uses.
    """
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return None
    counts = {char.encode("gb18030"): text.count(char) for char in set(text) if char > "\x7f"}
    inside = {pair: n for pair, n in counts.items() if len(pair) == 2 and pair[0] >= 0xA1 and pair[1] >= 0xA1}
    han = sum(n for pair, n in inside.items() if pair[0] >= 0xB0)
    common = sum(n for pair, n in inside.items() if 0xB0 <= pair[0] <= 0xD7)
    kana = sum(n for pair, n in inside.items() if pair[0] in (0xA4, 0xA5))
    above_korean = sum(n for pair, n in inside.items() if 0xC9 <= pair[0] <= 0xD7)
    plausible = sum(inside.values()) >= 0.9 * sum(counts.values()) and common >= 0.9 * han and kana <= 0.2 * han
    return text if plausible and above_korean >= 0.1 * max(han, 1) else None


def _western(data: bytes) -> str | None:
    """Windows-1252 (and Latin-1), when what is not ASCII is single letters that Western Europe uses."""
    if len(re.findall(rb"[\x80-\xff]{2,}", data)) > 0.34 * len(re.findall(rb"[\x80-\xff]+", data)):
        return None
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    other = [char for char in text if char > "\x7f"]
    return text if sum(char in _WESTERN for char in other) >= 0.9 * len(other) else None


def _guessed(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None:
        return None
    text = str(best)
    return text if _is_text(text) else None
