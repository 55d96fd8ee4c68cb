"""What a program printed as plain text: no terminal codes, no overwritten progress, no keys.

Every pattern is linear: no two repetitions in a row can take the same characters,
and what may be tried at many places is bounded in length.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

REDACTED = "[redacted]"

_SURE = r"api[ _-]?key|password|passwd|passphrase|client[ _-]?secret|(?:access|private|secret)[ _-]?key"
_UNSURE = r"token|secret|x-amz-signature"
_KEY_STARTS = r"hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|A(?:KI|SI)A|AIza|npm_|pypi-|eyJ"
# CSI; the strings OSC, DCS, SOS, PM and APC up to their end; other sequences. One that is never ended loses its first
# bytes only, so that a damaged code can neither hide the text behind it nor take the first letter of a key.
ANSI = (
    r"\x1b(?:\[[0-?]*[ -/]*(?:END[@-~])?|(?:END[\]PX^_])(?:[^\x07\x1b\r\n]*(?:\x07|\x1b\\))?|[ -/]*(?:END[0-~]))?"
).replace("END", rf"(?!{_KEY_STARTS}|(?i:bearer|authorization|{_SURE}|{_UNSURE}))")
_INVISIBLE = re.compile(ANSI + r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# C1 controls, separators that some readers take for line ends, marks that turn the direction of writing.
_DISGUISE = re.compile("[\x80-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_UNDECODED = re.compile("[\ud800-\udfff\ufffd]+")

_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|(?P<sk>sk-[A-Za-z0-9_-]{16,})|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|A(?:KI|SI)A[0-9A-Z]{16,}|AIza[A-Za-z0-9_-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{32,}"
    r"|(?<![_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?)+"
)
_GIVEN = r"[\"'`]?[ \t]{0,3}(?::|=>?)[ \t]{0,3}[\"'`]?"
_LOGIN = re.compile(r"://([^\s/:@\"'<>]{0,100}:[^\s/\"'<>]{1,256})(?=@)")
# What stands before a value and says that it is one; only the value is taken out. `f(` and `f[` are code.
_LABELLED = re.compile(
    r"(?:(?i:bearer|authorization\"?:[ \t]?\"?basic)[ \t]{1,3})(?P<credential>[A-Za-z0-9._~+/=-]{12,})"
    rf"|(?i:{_SURE})(?:{_GIVEN}|(?<=--api-key|-password)[ \t]{{1,3}})"
    rf"(?P<password>[^\s\"'`,;&()<>\[\]{{}}$]{{6,}}+)(?![\[(])"
    rf"|(?i:{_UNSURE})(?:{_GIVEN}|(?<=--token)[ \t]{{1,3}})(?P<value>[A-Za-z0-9._~+/=-]{{8,}}+)(?![\[(])"
)
# That pattern is slow; this one finds the few lines worth it.
_LABEL = re.compile(r"(?:token|key|passw(?:or)?d|passphrase|secret|signature|bearer|basic)[\"'` \t:=]")
_NO_VALUE = frozenset({"missing", "required", "not_set", "unset", "undefined", "********", "<hidden>", "hidden"})
# The beginning of a key at the very end of a text: the rest may not have been written yet.
_OPEN = re.compile(
    rf"(?<![A-Za-z0-9])(?:{_KEY_STARTS})[A-Za-z0-9._-]+\Z"
    rf"|(?i:(?:(?:{_SURE}|{_UNSURE}){_GIVEN}|bearer[ \t]{{1,3}})[^\s\"'`]+\Z)"
    r"|(?<=://)[^\s/:@\"'<>]{0,100}:[^\s/\"'<>]{1,256}\Z"
)
_OPEN_REACH = 400  # characters; a longer beginning of a key is recognised as one


def clean(text: str) -> str:
    """Without terminal codes, control characters, overwritten progress lines and known kinds of keys.

    Lines end in "\\n". Bytes that were no UTF-8, and lone surrogates, show as one U+FFFD a stretch.
    """
    text = _DISGUISE.sub("", _INVISIBLE.sub("", text.replace("\r\n", "\n")))
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    return redact(_UNDECODED.sub("\ufffd", text))


def redact(text: str) -> str:
    """Known kinds of keys, and values that are called a key, a token or a password, replaced by `[redacted]`."""
    pieces, at = [], 0
    for _, start, end in secret_spans(text):
        if start >= at:
            pieces += [text[at:start], REDACTED]
        at = max(at, end)
    return "".join([*pieces, text[at:]]) if pieces else text


def redact_open(text: str) -> str:
    """The same for a text whose last line is still being written: the beginning of a key is one."""
    last = max(0, len(text) - _OPEN_REACH)
    return text[:last] + _OPEN.sub(REDACTED, text[last:])


def secret_spans(text: str) -> list[tuple[int, int, int]]:
    """Where secrets are: (start of what announces it, its start, its end), by start."""
    return sorted(_secret_spans(text), key=lambda span: span[1:])


def _secret_spans(text: str) -> Iterator[tuple[int, int, int]]:
    for match in _KEY.finditer(text):
        # Words with hyphens look like the newer keys: those have a digit or one long part.
        if match["sk"] is None or _looks_random(match["sk"][3:]):
            yield match.start(), match.start(), match.end()
    for match in _LOGIN.finditer(text):
        yield match.start(), match.start(1), match.end(1)
    for start, end in _lines_with_labels(text):
        for match in _LABELLED.finditer(text, start, end):
            group = match.lastgroup or ""
            value = match[group]
            if _looks_random(value) or (group == "password" and value.lower() not in _NO_VALUE):
                yield match.start(), match.start(group), match.end(group)


def _lines_with_labels(text: str) -> Iterator[tuple[int, int]]:
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two
        lowered = "".join(letter.lower() if letter.isascii() else letter for letter in text)
    done = 0
    for label in _LABEL.finditer(lowered):
        if label.start() >= done:
            newline = text.find("\n", label.start())
            done = newline if newline != -1 else len(text)
            yield text.rfind("\n", 0, label.start()) + 1, done


def _looks_random(value: str) -> bool:
    has_digit, has_letter = any(map(str.isdigit, value)), any(map(str.isalpha, value))
    return (has_digit and has_letter) or max(map(len, re.split(r"[^A-Za-z]", value))) >= 16


def unbreakable(raw: str, position: int, reach: int) -> tuple[int, int] | None:
    """The key, terminal code or character that `position` would cut in two, as (start, end); None if it cuts none.

    Args:
        raw: bytes decoded as latin-1, one character a byte.
        reach: how many bytes before and after are looked at; what is longer is not seen.
    """
    low, high = max(0, position - reach), position + reach
    part, at = raw[low:high], position - low
    hidden = [match.span() for match in _INVISIBLE.finditer(part)]
    spans = [*_character(part, at), *hidden]
    # Keys are looked for in what will be seen; `starts` and `shifts` lead from there back to the bytes.
    starts, shifts, seen = [0], [0], 0
    for start, end in hidden:
        seen += end - start
        starts.append(end - seen)
        shifts.append(seen)
    for lead, _, end in secret_spans(_INVISIBLE.sub("", part)):
        first, last = (place + shifts[bisect_right(starts, place) - 1] for place in (lead, end - 1))
        spans.append((first, last + 1))
    cut = [span for span in spans if span[0] < at < span[1]]
    return (low + min(start for start, _ in cut), low + max(end for _, end in cut)) if cut else None


def _character(part: str, at: int) -> Iterator[tuple[int, int]]:
    """The UTF-8 character around `at`."""
    first = at
    while first > max(0, at - 3) and "\x80" <= part[first : first + 1] < "\xc0":
        first -= 1
    lead = part[first : first + 1]
    if lead >= "\xc0":
        yield first, first + (2 if lead < "\xe0" else 3 if lead < "\xf0" else 4)
