"""From dataset rows to token ids with labels: the split, the rendering, the loss mask.

The planner counts with this module and the trainer trains with it, so what was
planned is what is trained. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from tunesmith.data.records import Row
from tunesmith.data.splitting import held_out_rows
from tunesmith.errors import BadInput, EmptyInput
from tunesmith.models.prompt_format import only_last_trained

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from tunesmith.models.prompt_format import PromptFormat, Segment

IGNORED = -100  # the label of a token without loss, as torch's cross entropy has it
MIN_TRAIN_ROWS = 4
MIN_EVAL_ROWS = 1
BATCH_ROWS = 256  # tokenised at a time, on all cores


@dataclass(frozen=True)
class Example:
    """One row, tokenised. `labels` equals `input_ids` where there is loss and is -100 elsewhere.

    A row with two answers is two examples: the chosen one, and in `rejected` the same prompt with the other one. Its
    `tokens_before_cut` are those of the longer.
    """

    row_id: str
    input_ids: list[int]
    labels: list[int]
    tokens_before_cut: int
    rejected: Example | None = None

    @property
    def answers(self) -> tuple[Example, ...]:
        """The sequences that pass through the model for it: itself, and that with the rejected answer."""
        return (self,) if self.rejected is None else (self, self.rejected)

    @property
    def length(self) -> int:
        """Tokens of its longest sequence."""
        return max(len(answer.input_ids) for answer in self.answers)

    @property
    def was_cut(self) -> bool:
        return self.tokens_before_cut > self.length

    def cut(self, max_length: int) -> Example:
        """Without what lies beyond `max_length` tokens."""
        rejected = self.rejected and self.rejected.cut(max_length)
        return replace(self, input_ids=self.input_ids[:max_length], labels=self.labels[:max_length], rejected=rejected)

    @property
    def trained_tokens(self) -> int:
        """Tokens with loss. The first token is never predicted, so it never counts."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class SplitRows:
    """Rows to train on and rows held out."""

    train: list[Row]
    eval: list[Row]
    by: str  # how they were divided, for the reader


def split_rows(rows: Iterable[Row], *, eval_fraction: float, seed: int) -> SplitRows:
    """Divide rows: as the dataset says where it does, otherwise whole sections at a time, drawn from the seed.

    Raises:
        EmptyInput: fewer than 4 rows to train on or none to hold out.
    """
    rows = list(rows)
    if any(row.split == "eval" for row in rows):
        train = [row for row in rows if row.split != "eval"]
        held_out = [row for row in rows if row.split == "eval"]
        by = "the dataset's own split"
    else:
        chosen = held_out_rows(rows, eval_fraction, seed)
        by = f"whole sections drawn with seed {seed}"
        if not 0 < len(chosen) <= max(MIN_EVAL_ROWS, 3 * round(len(rows) * eval_fraction)):
            # Rows made from a template: kept together they would leave nothing, or far too much, on one side.
            chosen = held_out_rows(rows, eval_fraction, seed, copies_together=False)
            by += "; many rows are near copies of one another, so held-out rows have near copies in training"
        train = [row for number, row in enumerate(rows) if number not in chosen]
        held_out = [row for number, row in enumerate(rows) if number in chosen]
    if len(train) < MIN_TRAIN_ROWS or len(held_out) < MIN_EVAL_ROWS:
        raise EmptyInput(
            f"{len(rows)} rows give {len(train)} to train on and {len(held_out)} held out; "
            f"at least {MIN_TRAIN_ROWS} and {MIN_EVAL_ROWS} are needed.",
            next="Add rows with add_examples or extract_qa, or split the dataset with split_dataset.",
        )
    return SplitRows(train, held_out, by)


def tokenise(
    rows: Sequence[Row],
    prompt_format: PromptFormat,
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    on_batch: Callable[[], None] | None = None,
) -> list[Example]:
    """Render and tokenise each row, segment by segment.

    The prompt is tokenised apart from the answer, as it is when the model is asked, so no token straddles the two. Of a
    row with two answers only those are trained; earlier answers are part of the prompt.

    Args:
        max_length: tokens; what is longer loses its end. None: nothing is cut.
        on_batch: called between batches of rows, for progress and cancelling.
    """
    examples = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        segments = [parts for row in batch for parts in _segments(row, prompt_format)]
        texts = [segment.text for parts in segments for segment in parts]
        encoded = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        whole = iter([_labelled(parts, encoded) for parts in segments])
        for row in batch:
            example = replace(next(whole), row_id=row.row_id)
            if row.rejected is not None:
                rejected = replace(next(whole), row_id=row.row_id)
                longer = max(example.tokens_before_cut, rejected.tokens_before_cut)
                example = replace(example, tokens_before_cut=longer, rejected=rejected)
            examples.append(example if max_length is None else example.cut(max_length))
        if on_batch is not None:
            on_batch()
    return examples


def _segments(row: Row, prompt_format: PromptFormat) -> list[list[Segment]]:
    """The text of a row, and where it has two answers, that with each of them.

    Raises:
        BadInput: the template writes another prompt before the one answer than before the other.
    """
    if row.rejected_messages is None:
        return [prompt_format.segments(row.messages)]
    both = [only_last_trained(prompt_format.segments(each)) for each in (row.messages, row.rejected_messages)]
    prompts = ["".join(part.text for part in takewhile(lambda part: not part.trained, parts)) for parts in both]
    if prompts[0] != prompts[1]:
        raise BadInput(
            f"Row {row.row_id}: the template writes another prompt before the rejected answer than before the chosen.",
            next="Remove the row, or use prompt_format='alpaca'.",
        )
    return both


def _labelled(parts: Sequence[Segment], encoded: Iterator[Encoding]) -> Example:
    ids: list[int] = []
    labels: list[int] = []
    for segment in parts:
        tokens = next(encoded).ids
        ids += tokens
        labels += tokens if segment.trained else [IGNORED] * len(tokens)
    return Example("", ids, labels, len(ids))


def refuse_untrained(examples: Iterable[Example], max_length: int) -> None:
    """Refuse rows from which nothing would be learned: a run that skips them silently is not the one asked for.

    Raises:
        BadInput: naming them.
    """
    examples = list(examples)
    empty = [example for example in examples if any(answer.trained_tokens == 0 for answer in example.answers)]
    if not empty:
        return
    cut = sum(example.was_cut for example in empty)
    longest = max(example.tokens_before_cut for example in examples)
    names = ", ".join(example.row_id for example in empty[:5]) + (" …" if len(empty) > 5 else "")
    raise BadInput(
        f"{len(empty)} rows have no token with loss ({names})"
        + (f"; {cut} of them because max_length={max_length} cuts off the whole answer." if cut else "."),
        next=f"Raise max_length, or leave it out: the longest row has {longest} tokens."
        if cut
        else "Remove rows without an answer with clean_dataset (drop empty_output).",
    )
