"""What a judge said, kept in `judgements.jsonl`: one whole line a reply, on the disk before it is used."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith.data.llm_asking import Prompt
from tunesmith.data.llm_cache import KeptAnswer, answer_key
from tunesmith.data.llm_json import Unreadable
from tunesmith.evaluation import judge_prompts
from tunesmith.evaluation.judge_prompts import Preference, Scores
from tunesmith.evaluation.records import Answer, Question
from tunesmith.records import Record

JUDGEMENTS_FILE = "judgements.jsonl"


class JudgedAnswer(Record):
    """The scores of one answer."""

    label: str
    question: int
    repetition: int
    domain_knowledge: int = Field(description="1 to 5.")
    response_style: int = Field(description="1 to 5.")
    accuracy: int = Field(description="1 to 5.")
    reason: str = Field(description="The judge's own words.")


class JudgedPair(Record):
    """Two answers compared in both orders; an order without a judgement is null."""

    a: str
    b: str
    question: int
    repetition: int
    a_first: Literal["a", "b", "tie"] | None = Field(description="Whom the judge preferred when a's answer came first.")
    b_first: Literal["a", "b", "tie"] | None = Field(description="Whom it preferred when b's answer came first.")
    reasons: list[str] = Field(description="The judge's own words, in the same order.")
    same: bool = Field(default=False, description="The answers are the same text: a tie, and nobody was asked.")


@dataclass(frozen=True)
class Desk:
    """How answers are laid before the judge.

    Attributes:
        identity: of the judge; kept judgements hang on it.
        window: bytes of material shown at once.
        hide: takes names out of answers.
    """

    identity: str
    window: int
    questions: dict[int, Question]
    hide: Callable[[str], str]

    def score(self, answer: Answer) -> tuple[str, Prompt, bool]:
        """The key and the prompt that asks for an answer's scores, and whether it had to be cut."""
        shown = judge_prompts.score_prompt(self.questions[answer.question], answer.reply or "", self.window, self.hide)
        place = {"question": answer.question, "repetition": answer.repetition, "answer": answer.label}
        return self._prompt(shown, place, judge_prompts.SCORE_SCHEMA)

    def compare(self, first: Answer, second: Answer) -> tuple[str, Prompt, bool]:
        """The same for two answers in this order."""
        shown = judge_prompts.pair_prompt(
            self.questions[first.question], first.reply or "", second.reply or "", self.window, self.hide
        )
        place = {
            "question": first.question,
            "repetition": first.repetition,
            "first": first.label,
            "second": second.label,
        }
        return self._prompt(shown, place, judge_prompts.PAIR_SCHEMA)

    def _prompt(self, shown: judge_prompts.Shown, place: dict[str, Any], schema: Any) -> tuple[str, Prompt, bool]:
        limit = judge_prompts.MAX_TOKENS
        key = answer_key(self.identity, judge_prompts.VERSION, shown.messages, schema, limit)
        return key, Prompt(place, shown.messages, schema, limit), shown.cut


class JudgementFile:
    """`judgements.jsonl`: the `Keeper` of a judge's replies. Half a line, of a process that was killed, is skipped.

    Args:
        path: of the file; its folder exists.

    Attributes:
        reused_prompt_tokens, reused_completion_tokens: what the replies had cost that `get` gave.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reused_prompt_tokens = self.reused_completion_tokens = 0
        self._lock = threading.Lock()
        self._places: dict[str, Any] = {}
        self._kept: dict[str, KeptAnswer] = {}
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                entry = json.loads(line)
                kept = KeptAnswer(str(entry["reply"]), entry["prompt_tokens"], entry["completion_tokens"])
                self._kept[str(entry["key"])] = kept
            except (ValueError, KeyError, TypeError):
                continue

    def place(self, key: str, place: Any) -> None:
        """What the judgement of a key is about, for whoever reads the file."""
        self._places[key] = place

    def get(self, key: str, /) -> KeptAnswer | None:
        found = self._kept.get(key)
        if found is not None:
            self.reused_prompt_tokens += found.prompt_tokens or 0
            self.reused_completion_tokens += found.completion_tokens or 0
        return found

    def put(self, key: str, answer: KeptAnswer, /) -> None:
        entry = {
            **self._places.get(key, {}),
            **_said(answer.text),
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "key": key,
            "reply": answer.text,
        }
        line = json.dumps(entry).encode("ascii") + b"\n"  # a lone surrogate has no UTF-8
        with self._lock, self.path.open("ab+") as file:
            if file.tell() and not _ends_with_newline(self.path):
                line = b"\n" + line
            file.write(line)
        self._kept[key] = answer

    def said(self, key: str) -> Scores | Preference | None:
        """The judgement kept under a key; None where there is none."""
        kept = self._kept.get(key)
        try:
            return judge_prompts.read(kept.text) if kept else None
        except Unreadable:
            return None


def judged_answers(answers: Sequence[Answer], desk: Desk, file: JudgementFile) -> list[JudgedAnswer]:
    """The scores that there are for these answers."""
    found = []
    for answer in answers:
        if answer.reply is None:
            continue
        said = file.said(desk.score(answer)[0])
        if isinstance(said, Scores):
            place = {"label": answer.label, "question": answer.question, "repetition": answer.repetition}
            scores = dict(zip(judge_prompts.CRITERIA, said.values, strict=True))
            found.append(JudgedAnswer.model_validate({**place, **scores, "reason": said.reason}))
    return found


def judged_pairs(answers: Sequence[Answer], labels: Sequence[str], desk: Desk, file: JudgementFile) -> list[JudgedPair]:
    """Every two answers to one question that were compared in at least one order."""
    by_place = {(answer.question, answer.repetition, answer.label): answer for answer in answers if answer.reply}
    places = sorted({(question, repetition) for question, repetition, _ in by_place})
    found = []
    for a, b in combinations(labels, 2):
        for question, repetition in places:
            first, second = (by_place.get((question, repetition, label)) for label in (a, b))
            if first is None or second is None:
                continue
            common = {"a": a, "b": b, "question": question, "repetition": repetition}
            if first.reply == second.reply:
                found.append(
                    JudgedPair.model_validate(
                        {**common, "a_first": "tie", "b_first": "tie", "reasons": ["", ""], "same": True}
                    )
                )
                continue
            said = [file.said(desk.compare(*order)[0]) for order in ((first, second), (second, first))]
            chosen = [one if isinstance(one, Preference) else None for one in said]
            if any(chosen):
                winners = [
                    None if one is None else "tie" if one.winner == "tie" else order[one.winner == "second"]
                    for one, order in zip(chosen, ("ab", "ba"), strict=True)
                ]
                reasons = [one.reason if one else "" for one in chosen]
                found.append(
                    JudgedPair.model_validate(
                        {**common, "a_first": winners[0], "b_first": winners[1], "reasons": reasons}
                    )
                )
    return found


def _said(text: str) -> dict[str, Any]:
    """A reply as people read it."""
    try:
        said = judge_prompts.read(text)
    except Unreadable:
        return {}
    if isinstance(said, Preference):
        return {"winner": said.winner, "reason": said.reason}
    return {**dict(zip(judge_prompts.CRITERIA, said.values, strict=True)), "reason": said.reason}


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
