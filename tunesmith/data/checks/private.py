"""Personal data and secrets: finding them, and writing a typed placeholder in their place.

`\\b` does not separate an address from Han characters, so boundaries are said in
ASCII classes. What has a checksum (ID cards, bank cards) must pass it; what is
only a number (passports) needs a word beside it that says so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import date
from typing import NamedTuple

from tunesmith.data.checks.findings import Finding
from tunesmith.data.checks.secrets import secret_spans
from tunesmith.data.checks.spans import Span

REDACTABLE = ("pii", "secret")

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+@/-])[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
_NO_ONES_MAIL = re.compile(
    # Domains set aside for examples (RFC 2606) with a name that is nobody's, machines' own addresses, chat ids.
    r"(?i)(?:(?:user|users|admin|administrator|you|your|yourname|name|me|test|tester|info|mail|email|someone|somebody"
    r"|recipient|sender|foo|bar|example|demo|support|contact|hello|new\.?email|another|first\.last)\d{0,3}"
    r"@(?:[a-z0-9-]+\.)*(?:example\.(?:com|org|net|cn)|example|test|invalid|localhost)"
    r"|(?:you|your[a-z_.-]*|username|x{2,}\d*|no-?reply|do-?not-?reply)@.*|.*@(?:users\.noreply\.github\.com|.*\.gserviceaccount\.com|g\.us|s\.whatsapp\.net))"
)
_NOT_MAIL_ENDINGS = {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css"}
_LONG_NUMBER = re.compile(r"[0-9][0-9 ().\-]{5,}[0-9Xx]")
_ID_CARD = re.compile(r"(?<![0-9A-Za-z])[1-9][0-9]{5}(?:18|19|20)[0-9]{2}[01][0-9][0-3][0-9]{4}[0-9Xx](?![0-9A-Za-z])")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CARD = re.compile(
    r"(?<![0-9A-Za-z.\-])[2-69](?:[0-9]{12,18}|[0-9]{3}(?:([ -])[0-9]{4})(?:\1[0-9]{2,4}){2,3})(?![0-9A-Za-z])"
)
_CARD_STARTS = re.compile(  # schemes and the lengths they use
    r"4(?=\d{15}(?:\d{3})?$)|5[1-5](?=\d{14}$)|2(?:2[2-9]|[3-6]\d|7[01])(?=\d{13}$)|3[47](?=\d{13}$)"
    r"|3(?:0[0-5]|[68]\d)(?=\d{11}$)|(?:6[0-9]|9558|9111)(?=\d{12,17}$)"
)
_MOBILE = re.compile(
    r"(?<![0-9A-Za-z_.+])(?:(?:\+|00)?86[ -]?)?1[3-9](?!0{9})[0-9](?:[0-9]{8}|[ -][0-9]{4}[ -][0-9]{4})"
    r"(?![0-9A-Za-z_]|\.[0-9])"
)
_LANDLINE = re.compile(
    r"(?<![0-9A-Za-z.\-])(?:\(0[0-9]{2,3}\)[ -]?|（0[0-9]{2,3}）|0[0-9]{2,3}-)[2-9][0-9]{6,7}(?![0-9\-])"
)
_US_PHONE = re.compile(
    r"(?<![0-9A-Za-z.\-])(?:\+?1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-.][0-9]{4}"
    r"(?![0-9\-]|\.[0-9])"
)
_WORLD_PHONE = re.compile(r"(?<![0-9A-Za-z+])\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,4}\)?){2,6}(?![0-9:])")
_EXAMPLE_PHONE = re.compile(r"\+1555(?=\d{7}$).*(?:1234|0123|1230|000|5555).*")  # there is no area code 555
_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][·•\- ]?"
    r"(?:(?=(?:[A-Z]*[0-9]){3})[A-HJ-NP-Z0-9]{5,6}|[0-9]{4}[学警领港澳])(?![A-Za-z0-9])"
)
_SSN = re.compile(r"(?<![0-9A-Za-z.\-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9A-Za-z\-])")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
# Neither a browser's version (Chrome/122.0.0.0) nor a network (10.0.0.0/8) is somebody's address.
_IP = re.compile(
    rf"(?:(?<![0-9A-Za-z.\-])|(?<=[Ii][Pp]))(?<![A-Za-z]/)(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9A-Za-z\-]|\.[0-9]|/[0-9]{{1,2}}(?![0-9.]))"
)
_NO_ONES_IP = re.compile(
    r"127\.|0\.0\.0\.0$|255\.255\.|169\.254\.|1\.1\.1\.1$|8\.8\.[48]\.[48]$|1\.0\.0\.1$|192\.168\.[01]\.1$"
)
_VERSION_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])(?i:version|release|upgrade|update|driver|firmware|build|ver\.?|v|section|chapter)|版本号?|升级到?|更新到?|发布|章节?|第|[=~><!]=|[~^])"
    r"[\s::为是至到号]{0,4}$"
)
_HEADING_NUMBER = re.compile(r"(?:[0-9]|1[0-9])(?:\.(?:[0-9]|1[0-9])){3}")
_PASSPORT_WORD = re.compile(r"护照|通行证|(?i:passport)")
_PASSPORT = re.compile(r"(?<![0-9A-Za-z])(?:[EGDSPHeg][A-Za-z]?[0-9]{7,8}|[A-Z][0-9]{8}|[0-9]{9})(?![0-9A-Za-z])")
_PASSPORT_REACH = 24


class Found(NamedTuple):
    """A piece of a text that should not be learnt, and which check names it."""

    span: Span
    check: str


def find_private(text: str) -> list[Found]:
    """All personal data and secrets of a text, by position, without overlaps.

    Where two overlap, secrets win over personal data and the more specific kind wins.
    """
    spans = [Found(span, "secret") for span in secret_spans(text)]
    spans += [Found(span, "pii") for span in _pii_spans(text)]
    if len(spans) < 2:
        return spans
    kept: list[Found] = []
    for found in spans:  # specific first
        if all(found.span.end <= other.span.start or found.span.start >= other.span.end for other in kept):
            kept.append(found)
    return sorted(kept, key=lambda found: found.span.start)


def private_findings(texts: Collection[str]) -> Iterator[Finding]:
    """pii and secret, each with the kinds found; the values themselves are never repeated."""
    kinds: dict[str, list[str]] = {}
    for text in texts:
        for found in find_private(text):
            kinds.setdefault(found.check, []).append(found.span.kind)
    if "pii" in kinds:
        yield Finding("pii", f"Personal data: {', '.join(dict.fromkeys(map(_words, kinds['pii'])))}.")
    if "secret" in kinds:
        yield Finding("secret", f"A secret: {', '.join(dict.fromkeys(map(_words, kinds['secret'])))}.")


def redact(text: str, checks: Collection[str]) -> tuple[str, set[str]]:
    """`text` with placeholders such as `[EMAIL]`, and which of `checks` (pii, secret) had something to redact."""
    found = [each for each in find_private(text) if each.check in checks]
    if not found:
        return text, set()
    pieces: list[str] = []
    end = 0
    for each in found:
        pieces += [text[end : each.span.start], f"[{each.span.kind}]"]
        end = each.span.end
    return "".join([*pieces, text[end:]]), {each.check for each in found}


def _words(kind: str) -> str:
    return kind.lower().replace("_", " ")


def _pii_spans(text: str) -> Iterator[Span]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            local, _, domain = match[0].partition("@")
            ending = domain.rpartition(".")[2].lower()
            is_remote = local == "git" and text[match.end() : match.end() + 1] in (":", "/")
            if ending not in _NOT_MAIL_ENDINGS and not is_remote and not _NO_ONES_MAIL.fullmatch(match[0]):
                yield Span(match.start(), match.end(), "EMAIL")
    if _LONG_NUMBER.search(text):
        yield from _number_spans(text)
    if not text.isascii():
        for match in _PLATE.finditer(text):
            yield Span(match.start(), match.end(), "LICENCE_PLATE")
    if text.count(".") > 2:
        yield from _ip_spans(text)
    for word in _PASSPORT_WORD.finditer(text):
        match = _PASSPORT.search(text, word.end(), word.end() + _PASSPORT_REACH)
        if match:
            yield Span(match.start(), match.end(), "PASSPORT")


def _number_spans(text: str) -> Iterator[Span]:
    for match in _ID_CARD.finditer(text):
        if _is_id_card(match[0]):
            yield Span(match.start(), match.end(), "ID_CARD")
    for match in _CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if 14 <= len(digits) <= 19 and _CARD_STARTS.match(digits) and _passes_luhn(digits):
            yield Span(match.start(), match.end(), "BANK_CARD")
    for match in _SSN.finditer(text):
        yield Span(match.start(), match.end(), "SSN")
    for pattern in (_MOBILE, _LANDLINE, _US_PHONE):
        for match in pattern.finditer(text):
            if not _EXAMPLE_PHONE.fullmatch(match[0]):
                yield Span(match.start(), match.end(), "PHONE")
    if "+" in text:
        for match in _WORLD_PHONE.finditer(text):
            digits = sum(character.isdigit() for character in match[0])
            if 9 <= digits <= 15 and not _EXAMPLE_PHONE.fullmatch(match[0]):
                yield Span(match.start(), match.end(), "PHONE")


def _ip_spans(text: str) -> Iterator[Span]:
    for match in _IP.finditer(text):
        if _NO_ONES_IP.match(match[0]) or _VERSION_BEFORE.search(text, max(0, match.start() - 24), match.start()):
            continue
        line_start = match.start() == 0 or text[match.start() - 1] == "\n"
        if line_start and _HEADING_NUMBER.fullmatch(match[0]):
            continue
        yield Span(match.start(), match.end(), "IP")


def _is_id_card(text: str) -> bool:
    """GB 11643: a date of birth that exists, and the check character of ISO 7064 MOD 11-2."""
    try:
        date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, text, strict=False))
    return "10X98765432"[total % 11] == text[17].upper()


def _passes_luhn(digits: str) -> bool:
    if len(set(digits)) < 3:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
