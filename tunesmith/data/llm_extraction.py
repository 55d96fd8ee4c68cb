"""Pairs by a language model for every section of an extraction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data import llm_pairs
from tunesmith.data.candidates import MIN_ANSWER_CHARS, View
from tunesmith.data.llm_asking import Asking, Model, Outcome, Prompt
from tunesmith.data.llm_cache import AnswerCache
from tunesmith.data.llm_records import MAX_LISTED, LlmExtraction, LlmSkip, LlmUsage
from tunesmith.data.text import comparable
from tunesmith.errors import EmptyInput, ServiceFailed

STRATEGY = "llm"
MATERIAL = "llm"  # the field of a section's record that holds what a model is shown of it
NOTHING_THERE = "the model found nothing to ask about"

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Window:
    """What a model made of one window."""

    pairs: list[llm_pairs.Pair] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    failure: str | None = None


class PairsByModel:
    """The strategy `llm`: sections are shown to a model, after all were read and before questions are settled.

    Args:
        model: is asked.
        pairs: for each window, at most.
        max_answer_chars: no answer is longer.
    """

    def __init__(self, model: Model, *, pairs: int, max_answer_chars: int) -> None:
        self.model = model
        self.pairs = pairs
        self.max_answer_chars = max_answer_chars
        self.windows = 0
        self.sections = 0
        self.skips: list[tuple[str, Sequence[int], str]] = []
        self._failures: list[LlmSkip] = []
        self._failed = 0
        self._dropped: Counter[str] = Counter()
        self._taken = 0
        self._found: dict[int, dict[int, _Window]] = {}  # by section and window
        self._usage: LlmUsage | None = None

    def material(self, view: View) -> dict[str, Any] | None:
        """What the model is shown of a section, for its record; None where there is too little to ask about."""
        text = "".join(block.text for block in view.section.blocks)
        if len(text) < MIN_ANSWER_CHARS or not comparable(text):
            return None
        shown = llm_pairs.material(view, self.model.window_chars)
        self.windows += len(shown["windows"])
        self.sections += bool(shown["windows"])
        return shown

    def ask(self, cache_folder: Path, records: Iterable[dict[str, Any]], tell: Tell) -> None:
        """Ask about every section; what comes of it is joined to the records later.

        Args:
            cache_folder: where answers are kept between runs.
            records: of the sections, in their order, with their material.
            tell: is told how far this is; may raise to stop.

        Raises:
            EmptyInput: no section has enough text to ask about.
            ServiceFailed: no prompt got a usable answer.
        """
        if not self.windows:
            raise EmptyInput(
                f"No section has the {MIN_ANSWER_CHARS} characters of text that asking a model takes.",
                next="Write some sentences under the headings, or extract without llm.",
            )
        message = f"Asking {self.model.name}"
        tell(message, 0, self.windows)
        with AnswerCache(cache_folder) as cache:
            asking = Asking(self.model, cache, llm_pairs.read, version=llm_pairs.VERSION)
            with closing(asking.all(self._prompts(records))) as outcomes:
                for done, outcome in enumerate(outcomes, start=1):
                    self._take(outcome)
                    failed = asking.usage.failed
                    tell(f"{message} ({failed} without an answer)" if failed else message, done, self.windows)
        self._usage = asking.usage
        if not (asking.usage.answers or asking.usage.from_cache):
            raise ServiceFailed(
                f"{self.model.name} gave no usable answer to any of {self.windows} prompts: {asking.last_failure}.",
                next="Check the model's name, its address and the key in the settings, try ask_model, and call again; "
                "or extract without llm.",
            )
        if not asking.usage.tokens:
            raise ServiceFailed(
                f"{self.model.name} answered without using a token, so nothing it said is taken.",
                next="Check what answers at that address, and call again.",
            )

    def join(self, number: int, record: dict[str, Any]) -> None:
        """Add to a section's record what the model made of it."""
        found = [window for _place, window in sorted(self._found.pop(number, {}).items())]
        if not found:
            return
        lines, path = record["lines"], record["path"]
        failures = [window.failure for window in found if window.failure is not None]
        dropped = [reason for window in found for reason in window.dropped]
        pairs = [pair for window in found for pair in window.pairs]
        record["offers"] += [_offer(pair, record[MATERIAL]["where"]) for pair in pairs]
        self._taken += len(pairs)
        self._failed += len(failures)
        self._dropped.update(dropped)
        room = MAX_LISTED - len(self._failures)
        self._failures += [LlmSkip(path=path, lines=(lines[0], lines[1]), reason=reason) for reason in failures[:room]]
        why = [*failures, *map(_dropped, Counter(dropped).items())]
        self.skips += [(path, lines, f"llm: {reason}") for reason in why]
        if not record["offers"]:
            record["reason"] = "; ".join(filter(None, (record["reason"], f"llm: {(*why, NOTHING_THERE)[0]}")))

    def result(self) -> LlmExtraction:
        """The model's part, after everything was joined."""
        assert self._usage is not None
        return LlmExtraction(
            usage=self._usage,
            sections=self.sections,
            windows=self.windows,
            pairs=self._taken,
            dropped=dict(self._dropped.most_common()),
            failures=self._failures,
            failures_left_out=self._failed - len(self._failures),
        )

    def _prompts(self, records: Iterable[dict[str, Any]]) -> Iterator[Prompt]:
        for number, record in enumerate(records):
            section = record[MATERIAL]
            for window in range(len(section["windows"]) if section else 0):
                yield Prompt(
                    place=(number, window, section),
                    messages=llm_pairs.messages(section, window, self.pairs, self.max_answer_chars),
                    schema=llm_pairs.schema(self.pairs),
                    max_tokens=llm_pairs.max_tokens(self.pairs),
                )

    def _take(self, outcome: Outcome[list[dict[str, Any]]]) -> None:
        number, window, section = outcome.prompt.place
        if outcome.value is None:
            made = _Window(failure=outcome.failure or "no answer")
        else:
            made = _Window(*llm_pairs.check(outcome.value, section, self.pairs, self.max_answer_chars))
        self._found.setdefault(number, {})[window] = made


def _dropped(counted: tuple[str, int]) -> str:
    reason, count = counted
    return f"a pair was dropped: {reason}" if count == 1 else f"{count} pairs were dropped: {reason}"


def _offer(pair: llm_pairs.Pair, heading: list[str]) -> dict[str, Any]:
    """A pair as a strategy offers one; a question that is asked elsewhere too is asked about its place."""
    return {
        "strategy": STRATEGY,
        "about": f"{STRATEGY}\x1f{comparable(pair.question)}",
        "questions": [pair.question],
        "answer": pair.answer,
        "lines": [pair.first_line, pair.last_line],
        "shortened": False,
        # Rows of one section must stay on one side of a split, whatever lines their evidence stands on.
        "meta": {"heading": heading},
    }
