"""What can be measured of an answer without a judge. Every function is deterministic and works offline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tunesmith.data.language import HAN, language_of

# A run this long is copied, not hit upon: 16 Han characters are about 8 to 10 words.
MEMORISED_WORDS = 8
MEMORISED_CHARACTERS = 16

_UNIT = re.compile(rf"[{HAN}]|[^\W_]+", re.UNICODE)
_WORD_OR_HAN = re.compile(rf"[{HAN}]|(?:(?![{HAN}])[^\W_])+", re.UNICODE)


def chrf(reply: str, reference: str) -> float:
    """chrF of a reply against its reference, 0 to 100, by sacrebleu's definition (6-grams, β = 2)."""
    from sacrebleu.metrics.chrf import CHRF

    if not reply.strip() or not reference.strip():
        return 0.0
    return float(CHRF().sentence_score(reply, [reference]).score)


def rouge_l(reply: str, reference: str) -> float:
    """ROUGE-L F1, 0 to 1: the longest common subsequence of words, or of characters where the reference is Chinese."""
    by_character = language_of(reference) == "zh"
    ours, theirs = _units(reply, by_character=by_character), _units(reference, by_character=by_character)
    if not ours or not theirs:
        return 0.0
    return 2 * common_subsequence(ours, theirs) / (len(ours) + len(theirs))


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence: bit-parallel, one big-integer step for each element of `b`."""
    places: dict[str, int] = {}
    for position, unit in enumerate(a):
        places[unit] = places.get(unit, 0) | 1 << position
    everything = (1 << len(a)) - 1
    row = everything  # a 0 bit is a step of the subsequence's length
    for unit in b:
        match = row & places.get(unit, 0)
        row = ((row + match) | (row - match)) & everything
    return len(a) - row.bit_count()


class TrainingText:
    """The long n-grams of the answers a model was trained on.

    Args:
        answers: the training rows' outputs.
    """

    def __init__(self, answers: Iterable[str]) -> None:
        self._words: set[int] = set()
        self._characters: set[int] = set()
        self.answers = 0
        for answer in answers:
            self.answers += 1
            self._words.update(_hashes(_units(answer, by_character=False), MEMORISED_WORDS))
            self._characters.update(_hashes(_units(answer, by_character=True), MEMORISED_CHARACTERS))

    def copied(self, reply: str) -> tuple[int, int]:
        """Units of `reply` that lie in a run found in the training answers, and all its units.

        A unit is a word, or a character where the reply is Chinese.
        """
        by_character = language_of(reply) == "zh"
        known, length = (self._characters, MEMORISED_CHARACTERS) if by_character else (self._words, MEMORISED_WORDS)
        units = _units(reply, by_character=by_character)
        covered = 0
        end = 0  # of the stretch that is counted already
        for start, digest in enumerate(_hashes(units, length)):
            if digest in known:
                covered += start + length - max(start, end)
                end = start + length
        return covered, len(units)

    def share(self, replies: Iterable[str]) -> float | None:
        """Copied units over all units of `replies`; None where there is no unit."""
        copied = total = 0
        for reply in replies:
            some, all_of_it = self.copied(reply)
            copied += some
            total += all_of_it
        return copied / total if total else None


def _units(text: str, *, by_character: bool) -> list[str]:
    """Words and single Han characters in lower case, or every letter, digit and Han character by itself."""
    lowered = text.casefold()
    if by_character:
        return [character for word in _UNIT.findall(lowered) for character in word]
    return _WORD_OR_HAN.findall(lowered)


def _hashes(units: Sequence[str], length: int) -> Iterable[int]:
    # Hashes within one process only: Python salts them.
    return (hash(tuple(units[start : start + length])) for start in range(len(units) - length + 1))
