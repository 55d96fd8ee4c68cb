"""What a comparison costs, told before it is begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BYTES_PER_TOKEN = 4
# A judge's prompt beside the texts it is shown, and its reply; measured, in tokens.
JUDGE_PROMPT_TOKENS, JUDGE_REPLY_TOKENS = 420, 60


@dataclass(frozen=True)
class Bill:
    """Requests, and tokens at most: every answer is counted as long as it may get.

    Attributes:
        answers: requests to the compared models.
        judgements: requests to the judge; 0 without one.
        prompt_tokens, completion_tokens: of both, estimated at 4 bytes a token.
    """

    questions: int
    answers: int
    judgements: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def requests(self) -> int:
        return self.answers + self.judgements

    def __str__(self) -> str:
        judged = f" and {self.judgements:,} to the judge" if self.judgements else ""
        return (
            f"{self.questions:,} questions are {self.answers:,} requests to the models{judged}: about "
            f"{self.prompt_tokens:,} tokens sent and at most {self.completion_tokens:,} received"
        )


def bill(asked: Sequence[int], *, models: int, repetitions: int, max_tokens: int, judge: bool) -> Bill:
    """What it costs to ask and to judge.

    Args:
        asked: of each question, the bytes that are sent and the bytes of its reference.
    """
    answers = len(asked) * models * repetitions
    pairs = models * (models - 1) // 2
    scored, compared = answers, len(asked) * pairs * 2 * repetitions
    sent = sum(asked) // BYTES_PER_TOKEN
    prompt, completion = sent * models * repetitions, answers * max_tokens
    if judge:
        shown = sent * repetitions * (models + 2 * pairs) + max_tokens * (scored + 2 * compared)
        prompt += shown + JUDGE_PROMPT_TOKENS * (scored + compared)
        completion += JUDGE_REPLY_TOKENS * (scored + compared)
    return Bill(
        questions=len(asked),
        answers=answers,
        judgements=scored + compared if judge else 0,
        prompt_tokens=prompt,
        completion_tokens=completion,
    )
