"""Whether an exported file ends its answers by itself, asked in the trained prompt as token ids.

The most frequent complaint about a fine-tuned model is that it goes on for ever. A wrong end token, a template that
training did not see, or a model that never learned to end: each shows here, in the very file that will be served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import CheckFailed
from tunesmith.export import gguf
from tunesmith.export.child import ChildFailed
from tunesmith.export.llama_answers import REPEATED, repeats_itself
from tunesmith.export.llama_job import run_job
from tunesmith.export.records import StopRate

if TYPE_CHECKING:
    import tokenizers

    from tunesmith.models.prompt_format import PromptFormat

MAX_QUESTIONS = 16
MAX_LIMIT, MIN_LIMIT = 512, 16  # tokens
MAX_PROMPT = 1024  # tokens
# No question is begun after the first; at the second, answers that still grow are cut.
BEGINNING_S, ENDING_S = 15.0, 45.0
# Answered side by side; each needs memory for its own text, of which a large model needs much.
SLOTS, SLOTS_OF_LARGE, LARGE_BYTES = 8, 4, 2 * 2**30
# Fewer answers are told and not judged: three of five prove nothing.
MIN_JUDGED = 8
WORST_RATE, GOOD_RATE = 0.5, 0.9


@dataclass(frozen=True)
class Questions:
    """What is asked.

    Attributes:
        prompts: token ids up to where the answer begins, as in training.
        longest: tokens of the longest trained answer.
        limit: tokens after which an answer counts as endless.
        cut_loops: an answer that repeats itself counts as endless: no trained one does.
    """

    prompts: list[list[int]]
    longest: int
    limit: int
    cut_loops: bool = True


def questions(
    asked: Iterable[Sequence[Any]],
    trained: Iterable[Sequence[Any]],
    prompt_format: PromptFormat,
    tokenizer: tokenizers.Tokenizer,
    *,
    at_most: int = MAX_QUESTIONS,
) -> Questions:
    """The last question of each held-out conversation, with what was said before it.

    Args:
        asked: held-out conversations. One whose own answer is longer than the limit is left out: a model that
            does not end there is right.
        trained: conversations the model was trained on, or like them. Twice the longest answer is the limit, at
            least 16 tokens and at most 512.
    """
    known = [turn for messages in trained if (turn := _last_turn(messages, prompt_format, tokenizer))]
    found = [turn for messages in asked if (turn := _last_turn(messages, prompt_format, tokenizer))]
    longest = max((len(answer) for _, answer in known or found), default=0)
    limit = min(MAX_LIMIT, max(MIN_LIMIT, 2 * longest))
    prompts = [prompt for prompt, answer in found if len(prompt) <= MAX_PROMPT and len(answer) <= limit]
    different = [list(prompt) for prompt in dict.fromkeys(map(tuple, prompts))]
    return Questions(different[:at_most], longest, limit, not any(_loops(answer) for _, answer in known or found))


def ask(path: Path, quantization: str, what: Questions, *, check: Callable[[], None]) -> StopRate | None:
    """Answer the questions greedily with a GGUF.

    Args:
        check: called often; raises when the run was cancelled.

    Returns:
        None where there is no question, or the machine is too slow to see an answer longer than the trained ones.

    Raises:
        CheckFailed: the program that asks failed.
    """
    if not what.prompts:
        return None
    order = {
        "model": str(path),
        "prompts": what.prompts,
        "limit": what.limit,
        "slots": SLOTS if path.stat().st_size < LARGE_BYTES else SLOTS_OF_LARGE,
        "cut_loops": what.cut_loops,
        "beginning_s": BEGINNING_S,
        "ending_s": ENDING_S,
        "threads": gguf.threads(),
    }
    try:
        answers = run_job("answer", order, check=check)["answers"]
    except ChildFailed as failure:
        raise gguf.failed(failure, f"asking the {quantization} file") from failure
    # An answer that was cut for time went on at least as long as the longest trained one, or says nothing.
    cut = [len(answer["tokens"]) for answer in answers if answer["stopped"] is None]
    if not answers or (cut and min(cut) < what.longest):
        return None
    stopped = sum(answer["stopped"] is True for answer in answers)
    return StopRate(
        quantization=quantization,
        asked=len(answers),
        stopped=stopped,
        repeated=sum(answer["repeats"] for answer in answers),
        rate=round(stopped / len(answers), 4),
        limit_tokens=min([what.limit, *cut]),
    )


def judge(found: StopRate) -> str | None:
    """Refuse a file that does not end its answers; a note on one that often does not.

    Raises:
        CheckFailed: with the figures.
    """
    within = f"{found.asked - found.stopped} of {found.asked} answers to held-out questions went on after "
    within += f"{found.limit_tokens} tokens"
    if found.repeated:
        within += f" or said one passage again and again ({found.repeated})"
    if found.asked >= MIN_JUDGED and found.rate < WORST_RATE:
        raise CheckFailed(
            f"The {found.quantization} file does not end its answers by itself: {within}, where the longest answer "
            f"in the data would have ended (stop rate {found.rate:.0%}, at least {WORST_RATE:.0%} is expected). "
            "No file was handed out.",
            next="Call diagnose_run for the training run: most often the model was trained for too few steps, or its "
            "answers were cut by max_length so that it never saw one end. verify=false exports it as it is.",
        )
    return f"Of the {found.quantization} file {within}." if found.rate < GOOD_RATE else None


def _last_turn(
    messages: Sequence[Any], prompt_format: PromptFormat, tokenizer: tokenizers.Tokenizer
) -> tuple[list[int], list[int]] | None:
    """Token ids before the last answer, and that answer's, tokenised segment by segment as in training."""
    segments = prompt_format.segments(messages)
    last = max((number for number, segment in enumerate(segments) if segment.trained), default=0)
    if last == 0:
        return None
    encoded = [tokenizer.encode(segment.text, add_special_tokens=False).ids for segment in segments[: last + 1]]
    return [token for ids in encoded[:last] for token in ids], encoded[last]


def _loops(answer: Sequence[int]) -> bool:
    return any(repeats_itself(answer[end - REPEATED : end]) for end in range(REPEATED, len(answer) + 1))
