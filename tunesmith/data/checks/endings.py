"""Answers that break off: what ends where no sentence ends, judged by how the rest of the answer is written.

An answer may well end without a full stop: a title, a list of names, a command. It is
called cut off when its last character asks for more, when a bracket stays open, when
the last line is a sentence by its length and its words, or when lines like the last
one do end.
"""

from __future__ import annotations

import re

from tunesmith.data.language import HAN

MIN_CUT_CHARS = 40
SHORT_CUT_CHARS = 16
CLOSING_LINE = 60  # a line of its own, shorter than this, is a closing word rather than a sentence cut short
NEAREST = 4  # lines that stand nearest tell how this one should end
VERY_LONG_WORDS = 13
LONG_WORDS, LONG_HAN = 9, 14  # from these on a line is a sentence, not a title

FENCE = re.compile(r"^ {0,3}```", re.MULTILINE)
CODE_LIKE = re.compile(r"[{};=<>\\$|`#]|[A-Za-z0-9_]\(|^\s{4}|://|^[A-Z0-9 _.-]+$")
SENTENCE_LINE = re.compile(
    f"[。！？!?…；：，]|[.][\"'”)]*$|\\w[,;:]? [\\w'’-]+[,;:]? [\\w'’-]+[,;:]? [a-z]|[{HAN}]{{6}}"
)
_END = "。！？!?.…」』”’\"')）】》]!}>〉*`~|;；"
_OPEN_END = ",，、:：(（[{“‘「『《【—–&+/="
_CLOSED = "。！？!?.；;：:"
_INNER_END = re.compile(r"[。！？](?=.)|[.!?][\"')\]]* (?=[A-Z\"'(])")
_LIST_ITEM = re.compile(
    r"\s*(?:[-*+•·]|[0-9]{1,3}[.)、．]|[（(][0-9一二三四五六七八九十]{1,3}[)）]|[一二三四五六七八九十]{1,3}、)\s*\S"
)
_DANGLING_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the and or but nor of to in on at by for with from as is are was were be been being has have had that
        which who whose because if when while where than then such into onto about between through during without within
        via per its their his her your our my this these those can could will would shall should may might must not very
        more most""",
    )
)
# Notes without full stops may end in these: "easiest to start with".
_STRANDED = frozenset(re.findall(r"\w+", "to on at by for with from in into about being be have has had not more most"))
_DANGLING_HAN = frozenset("和与或在把被将及以而但从并因若则其由且")
# No sentence of Chinese ends so; these may be anything in a title or in a list of words.
_DANGLING_PHRASE = re.compile(
    "(?:的|可以|能够|需要|应该|它们|如果|因为|例如|比如|包括|以及|或者|并且|而且|通过|根据|由于|为了|关于|其中)\\Z"
)
_BARE_ITEM = re.compile(r"(?:[0-9]{1,3}[.)、．]|[-*+•])\s*")
_INNER_NUMBER = re.compile(r"(?:[.!?]\s+|[。！？]\s*)[0-9]{1,2}[.、]\Z")
_SIGN_OFF = re.compile(
    r"(?:[Rr]egards|[Ww]ishes|[Ss]incerely|[Yy]ours|[Ll]ove|[Tt]hanks|[Cc]heers),\s*[A-Z][\w. ]{0,40}\Z"
)
_NAME_END = re.compile(r"(?:^|\s)[#.@]\w+\Z")  # #topic, .org, @name
_REFERENCE = re.compile(r"[+(]?[0-9A-Z]{0,2}[0-9][0-9() -]{5,}\Z")  # a telephone number, an account
_ELLIPSIS = re.compile(r"(?:\.{3,}|…+)\Z")
_GOES_ON = re.compile(f"[a-z{HAN},，]\\s?(?:\\.{{3}}|…+)\\Z")
_SIGNED = re.compile(r"[\"”’」』]\s*[(（]?[-–—―~]{1,2}\s*\S.{0,60}\Z|^(?:[–—―]{1,2}|--)\s*\S.{0,40}\Z")
_LAST_WORD = re.compile(r"(?<![0-9A-Za-z'’])[A-Za-z'’]+\Z")
_WORD = re.compile(r"[A-Za-z'’]+")
_HAN = re.compile(f"[{HAN}]")
_CODE_SPAN = re.compile(r"`[^`\n]+`")
# "Name: what it is", "Name — what it is", a heading's colon: entries of a list without bullets.
_LABEL = re.compile(r"^[^:：—–。.!?]{1,48}(?:[:：]|\s[—–-]{1,2}\s)")
_SENTENCE_WORD = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|could|will|would|should|may|might|must|does|did|I|you|he|she|it|we|they|me|him|us"
    r"|them|my|his|her|our|their|that|which|who|because|but)\b"
)
_SENTENCE_HAN = re.compile("[，的是了在和对我您这那会能可为有也都不个]")
_FENCED = re.compile(r"^ {0,3}```.*?^ {0,3}```", re.MULTILINE | re.DOTALL)


def truncation(output: str) -> str | None:
    """Why an answer seems to break off, or None."""
    text = output.rstrip()
    if len(text) < MIN_CUT_CHARS:
        return _broken_off(text)
    before, _, last = text.rpartition("\n")
    last = last.strip()
    if before.strip() and _BARE_ITEM.fullmatch(last):
        return "The answer ends with the number of an item that is missing."
    if _INNER_NUMBER.search(last[-8:]):
        return "The answer ends with the number of an item that is missing."
    if len(FENCE.findall(before)) % 2:
        # A fence that was left open far above is another matter: what stands last is prose.
        code = not last.startswith("```") and not last.endswith(tuple(_CLOSED))
        return "The answer breaks off in a block of code." if code else None
    if not last or last.startswith(("```", "~~~", "|", "#", ">", ":::", "{%")):
        return None
    if _ELLIPSIS.search(last):
        # A sequence of numbers, paths or records goes on like that, and a story's last line may fade out.
        if len(last) < CLOSING_LINE and before.rstrip()[-1:] in _END:
            return None
        cut = len(text) >= 200 and _GOES_ON.search(last) and not CODE_LIKE.search(last)
        return "The answer breaks off with an ellipsis." if cut else None
    end = last[-1]
    if end in _END and not _opens_quote(last):
        return None
    word = _LAST_WORD.search(last)
    plain = _CODE_SPAN.sub("x", last)
    # Mathematics and names of functions stand in sentences too.
    said = (len(_WORD.findall(plain)) > 6 and _SENTENCE_WORD.search(plain)) or len(_HAN.findall(plain)) >= LONG_HAN
    code = bool(CODE_LIKE.search(plain)) and not (said and (word or _HAN.match(end)))
    if end in _OPEN_END or _opens_quote(last):
        return None if code and end in ":=+/&{[" else f"The answer ends with {end!r}."
    if _SIGNED.search(last) or _SIGN_OFF.search(last) or _REFERENCE.search(last) or _NAME_END.search(last):
        return None
    if word and word[0] in _DANGLING_WORDS and " " in last and not _is_stranded(word[0], text):
        return "The answer ends in the middle of a sentence."
    if end in _DANGLING_HAN or (said and _DANGLING_PHRASE.search(last)):
        return "The answer ends in the middle of a sentence."
    if code or not (word or end.isalnum()):
        return None
    if plain.count("`") % 2 or _is_open(plain):
        return "The answer ends within a bracket or a quotation."
    return "The last sentence has no end." if _is_sentence(plain, before) else None


def _broken_off(text: str) -> str | None:
    """Why a short answer seems to break off: only where its last word or sign leaves no doubt."""
    word = _LAST_WORD.search(text)
    if len(text) < SHORT_CUT_CHARS or "\n" in text or CODE_LIKE.search(text):
        return None
    if word and word[0] in _DANGLING_WORDS - _STRANDED and len(_WORD.findall(text)) >= 4:
        return "The answer ends in the middle of a sentence."
    if text[-1] in ",，、(（" or (_HAN.search(text) and _DANGLING_PHRASE.search(text)):
        return f"The answer ends with {text[-1]!r}."
    return None


def _opens_quote(last: str) -> bool:
    """Whether the last character is a straight quote that opens: it stands after a space and closes nothing."""
    return last[-1] in "\"'" and last[-2:-1] in (" ", "(") and last.count(last[-1]) % 2 == 1


def _is_stranded(word: str, text: str) -> bool:
    """Whether a last word may end a phrase in notes that use no full stops, as in "easiest to start with"."""
    return word in _STRANDED and not _INNER_END.search(text) and not re.search(r"[.!?]\n", text)


def _is_open(last: str) -> bool:
    """Whether the last line opens a bracket or a quotation and does not close it."""
    return any(
        sum(last.count(mark) for mark in opening) > sum(last.count(mark) for mark in closing)
        for opening, closing in (("(（", ")）"), ("“", "”"), ("《", "》"), ("「", "」"), ("【", "】"))
    )


def _is_sentence(last: str, before: str) -> bool:
    """Whether the last line should end like a sentence: by itself, or because the lines like it do."""
    item = bool(_LIST_ITEM.match(last))
    body = re.sub(r"^\s*(?:[0-9]{1,3}[.)、．]|[-*+•·])\s*", "", last)
    inner = _INNER_END.search(body)
    if inner and (not item or inner.start() >= 16):
        return True
    # Verses, addresses, a list of names: the line right above is short and open too.
    above = before.rpartition("\n")[2].strip()
    open_above = above and above[-1] not in _CLOSED and above[-1] not in _OPEN_END and not _LIST_ITEM.match(above)
    if not item and open_above and not _is_long(body) and not _is_long(above):
        return False
    alike = _list_above(before) if item else _lines_above(before)
    closed = sum(line[-1] in _CLOSED for line in alike)
    if item:
        return bool(alike) and closed >= 0.75 * len(alike)
    label = _LABEL.match(body)
    long = _is_long(body) or (not alike and len(_WORD.findall(body)) >= 6)
    if closed < 0.6 * len(alike):
        return False
    if not long and body[-1].isdigit():
        return False
    if not long and alike and alike[-1][-1] in _CLOSED and not label and _is_phrase(body):
        return True
    if not long:
        return len(alike) >= 2 and closed == len(alike) and not body[-1].isdigit() and not label
    if alike:
        return not label or bool(re.search("[，,]", body[label.end() :]))
    if len(_WORD.findall(body)) >= VERY_LONG_WORDS and not label:
        return True
    words = _SENTENCE_HAN if _HAN.search(body) else _SENTENCE_WORD
    return not label and bool(words.search(body))


def _is_long(line: str) -> bool:
    return len(_WORD.findall(line)) >= LONG_WORDS or len(_HAN.findall(line)) >= LONG_HAN


def _is_phrase(line: str) -> bool:
    """Whether a short line runs like a sentence: words after a small one, or Chinese with a particle or a comma."""
    if _HAN.search(line):
        return len(_HAN.findall(line)) >= 3 and bool(_SENTENCE_HAN.search(line))
    return len(_WORD.findall(line)) >= 3 and line[:1].isupper() and not line.istitle()


def _list_above(before: str) -> list[str]:
    """The items that stand right above, at most 4; what is indented under them does not count."""
    items: list[str] = []
    for line in reversed(before.split("\n")):
        if _LIST_ITEM.match(line):
            if len(line.strip()) >= 8 or line[-1] not in _CLOSED:
                items.append(line.rstrip())
        elif line.strip() and not line.startswith((" ", "\t")):
            break
    return items[:NEAREST]


def _lines_above(before: str) -> list[str]:
    """The lines of prose above, the nearest 4."""
    before = _FENCED.sub("", before) if "```" in before else before
    lines = [line.rstrip() for line in before.split("\n") if len(line.strip()) >= 8 and not _LIST_ITEM.match(line)]
    return [line for line in lines if not CODE_LIKE.search(line)][-NEAREST:]
