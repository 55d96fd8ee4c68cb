"""What a training run knows of its rows and cannot be seen in a curve: shares, counts and two control losses.

Numbers only, no text. The worker writes them into `facts.json` of the run's folder before the first step, so a run
that dies has them too; `diagnose` reads them. No torch here.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from tunesmith.data.records import Row
from tunesmith.files import write_atomic
from tunesmith.training.examples import IGNORED, Example
from tunesmith.training.fact_records import Control, Facts

FACTS_FILE = "facts.json"
MAX_FACTS_BYTES = 64 * 1024
CONTROL_ROWS = 32  # held-out rows of the control; two passes over them at the start, two at the end
MIN_CONTROL_ROWS = 12
LONG_ANSWER = 60  # characters: two rows do not come to the same one by chance
QUESTION_MARKS = ("?", "？", "؟")
SENTENCE_ENDS = (*QUESTION_MARKS, *".!。！…:;)]}>\"'”’»」』`*|")
GROUP_ROWS = 20  # fewer rows of one script say nothing about what is usual in it
UNUSUAL_TOKENS = 1.5  # times as many tokens for a character as usual in the data
UNUSUAL_GRAMS = 0.35  # times the usual share of letter triples that other rows have too
SOME_BYTES = 20  # of an answer, from which its tokens tell how well the base knows the language
SAMPLED_ROWS = 5_000  # of more rows every n-th is looked at letter by letter


def measure(
    train: Sequence[Row],
    held_out: Sequence[Row],
    examples: Sequence[Example],
    *,
    vocabulary: int,
    end_token: int | None,
) -> Facts:
    """What the rows of a run show.

    Args:
        train, held_out: the rows of the split.
        examples: the training rows, tokenised, in the same order.
        vocabulary: tokens the base knows.
        end_token: the id of the token that ends an answer.
    """
    # Hashes of texts instead of the texts: a million rows are kept in memory once, not three times.
    answers = Counter(hash(_plain(row.output)) for row in train)
    different = len({hash((_prompt(row), _plain(row.output))) for row in train})
    count = max(1, len(train))
    longest = max((len(row.output) for row in train), default=0)
    # All that carries loss in a row that is whole, as text and as tokens; the token that ends an answer is no text.
    whole = [(row, example) for row, example in zip(train, examples, strict=True) if not example.was_cut]
    spoken = ["".join(message.content for message in row.messages if message.role == "assistant") for row, _ in whole]
    tokens = [sum(label not in (IGNORED, end_token) for label in example.labels) for _, example in whole]
    return Facts(
        rows=len(train),
        held_out=len(held_out),
        vocabulary=vocabulary,
        repeated_share=1 - different / count if train else 0.0,
        distinct_answers=len(answers),
        commonest_answer_share=max(answers.values(), default=0) / count,
        leaked_share=_leaked_share(train, held_out, answers),
        unended_share=sum(_ends_otherwise(example, end_token) for example in examples) / count,
        cut_share=sum(example.was_cut for example in examples) / count,
        longest_answer_share=sum(_breaks_off(row.output, longest) for row in train) / count,
        asking_prompts_share=sum(_asks(row.instruction) for row in train) / count,
        asking_answers_share=sum(_asks(row.output) for row in train) / count,
        garbled_share=garbled_share(spoken, tokens),
        bytes_per_token=_bytes_per_token(spoken, tokens),
    )


def control_pairs(held_out: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Some held-out rows, and the same with their last answers exchanged among them.

    The same answers stand in both lists, so their losses can be compared; no row is longer than the longest held out.
    Both are empty when there are too few rows.
    """
    draw = random.Random(seed)
    drawn = draw.sample(held_out, min(len(held_out), CONTROL_ROWS))
    rows = [parts for example in drawn if (parts := _last_answer(example)) is not None]
    limit = max((len(prompt) + len(answer) for prompt, answer in rows), default=0)
    rows.sort(key=lambda parts: len(parts[0]) + len(parts[1]))
    own: list[Example] = []
    exchanged: list[Example] = []
    for place in range(0, len(rows) - 1, 2):
        (prompt, answer), (other_prompt, other_answer) = rows[place], rows[place + 1]
        if answer == other_answer or max(len(prompt) + len(other_answer), len(other_prompt) + len(answer)) > limit:
            continue
        own += [_joined(prompt, answer), _joined(other_prompt, other_answer)]
        exchanged += [_joined(prompt, other_answer), _joined(other_prompt, answer)]
    return (own, exchanged) if len(own) >= MIN_CONTROL_ROWS else ([], [])


def write(run_dir: Path, facts: Facts) -> None:
    """Keep the facts with the run."""
    write_atomic(run_dir / FACTS_FILE, facts.model_dump_json())


def read(run_dir: Path) -> Facts | None:
    """The facts of a run; None where there are none or they are damaged."""
    try:
        with (run_dir / FACTS_FILE).open("rb") as file:
            return from_json(json.loads(file.read(MAX_FACTS_BYTES)))
    except (OSError, ValueError, RecursionError):
        return None


def from_json(content: Any) -> Facts | None:
    """The facts in a JSON object; None where it is not one of facts."""
    try:
        return Facts.model_validate(content)
    except ValidationError:
        return None


def with_control(facts: Facts, *, when: str, rows: int, own: float, exchanged: float) -> Facts:
    """The facts with one more control: `when` is before or after."""
    return facts.model_copy(update={f"control_{when}": Control(rows=rows, own=own, exchanged=exchanged)})


def garbled_share(answers: Sequence[str], tokens: Sequence[int]) -> float:
    """Share of answers that are no language: more tokens a character than usual, and letter triples no other row has.

    Either alone is common (numbers, code, a rare word), and a second script differs from the first in both, so rows
    are compared with those of their own script.
    """
    stride = max(1, len(answers) // SAMPLED_ROWS)
    pairs = [(text, count) for text, count in zip(answers[::stride], tokens[::stride], strict=True) if len(text) >= 10]
    found = 0
    for is_wide in (False, True):
        group = [(text, count) for text, count in pairs if _is_wide(text) == is_wide]
        if len(group) < GROUP_ROWS:
            continue
        grams = [{text[at : at + 3].casefold() for at in range(len(text) - 2)} for text, _ in group]
        in_rows = Counter(gram for row in grams for gram in row)
        # At least three rows: two garbled ones may share a triple by chance.
        shared = [sum(in_rows[gram] > 2 for gram in row) / len(row) for row in grams]
        cost = [count / len(text) for text, count in group]
        usual_cost, usual_shared = median(cost), median(shared)
        found += sum(
            row_cost > UNUSUAL_TOKENS * usual_cost and row_shared < UNUSUAL_GRAMS * usual_shared
            for row_cost, row_shared in zip(cost, shared, strict=True)
        )
    return found / len(pairs) if pairs else 0.0


def _bytes_per_token(answers: Sequence[str], tokens: Sequence[int]) -> float:
    """The middle answer's; 0 where few are long. Digits aside: many tokenizers have a token for each."""
    stride = max(1, len(answers) // SAMPLED_ROWS)
    found = []
    for text, count in zip(answers[::stride], tokens[::stride], strict=True):
        digits = sum(letter.isdecimal() for letter in text)
        size = len(text.encode()) - digits
        if size >= SOME_BYTES:
            found.append(size / max(1, count - digits))
    return median(found) if len(found) * stride * 2 > len(answers) else 0.0


def _is_wide(text: str) -> bool:
    """Whether most of it is written in characters that each stand for a syllable or word."""
    return sum("\u3040" <= letter <= "\u9fff" or "\uac00" <= letter <= "\ud7a3" for letter in text) * 3 > len(text)


def _leaked_share(train: Sequence[Row], held_out: Sequence[Row], answers: Counter[int]) -> float:
    """Share of held-out rows whose prompt, or whose long answer, is trained on as well."""
    prompts = {hash(_prompt(row)) for row in train}
    # Where few answers serve many rows (labels, standard replies), an answer seen before is no leak.
    varied = len(answers) * 2 > len(train)
    leaked = 0
    for row in held_out:
        answer = _plain(row.output)
        known = varied and len(answer) >= LONG_ANSWER and hash(answer) in answers
        leaked += known or hash(_prompt(row)) in prompts
    return leaked / max(1, len(held_out))


def _breaks_off(text: str, longest: int) -> bool:
    """Whether an answer has exactly the longest length of all and no end of a sentence."""
    return len(text) == longest > LONG_ANSWER and not text.rstrip().endswith(SENTENCE_ENDS)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _prompt(row: Row) -> str:
    """All that stands before the last message: many dialogues begin alike."""
    return "\n".join(f"{message.role} {_plain(message.content)}" for message in row.messages[:-1])


def _asks(text: str) -> bool:
    return text.rstrip().endswith(QUESTION_MARKS)


def _ends_otherwise(example: Example, end_token: int | None) -> bool:
    last = next((label for label in reversed(example.labels) if label != IGNORED), IGNORED)
    return end_token is not None and last != end_token


def _last_answer(example: Example) -> tuple[list[int], list[int]] | None:
    """The tokens before the last answer and those of it; None where there is no answer."""
    labels = example.labels
    end = next((at for at in range(len(labels), 0, -1) if labels[at - 1] != IGNORED), 0)
    start = next((at for at in range(end, 0, -1) if labels[at - 1] == IGNORED), 0)
    return (example.input_ids[:start], example.input_ids[start:end]) if 0 < start < end else None


def _joined(prompt: list[int], answer: list[int]) -> Example:
    ids = prompt + answer
    return Example("", ids, [IGNORED] * len(prompt) + answer, len(ids))
