"""A dataset row as the text that a model is trained on, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.models.prompt_format import only_last_trained
from tunesmith.models.records import Record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunesmith.models.prompt_format import PromptFormat


class RenderedSegment(Record):
    """A stretch of the text."""

    text: str = Field(description="The characters, special tokens written out.")
    trained: bool = Field(description="Whether it carries loss: the model learns to write it.")


class RenderedRow(Record):
    """A row as text."""

    text: str = Field(description="Exactly what is trained on, special tokens written out.")
    tokens: int | None = Field(description="Tokens of the text; null without a tokenizer.")
    trained_tokens: int | None = Field(description="Tokens that carry loss; null without a tokenizer.")
    segments: list[RenderedSegment] = Field(description="The text in stretches with and without loss.")


def render_row(
    messages: Sequence[Any],
    prompt_format: PromptFormat,
    tokenizer: Tokenizer | None,
    *,
    last_answer_only: bool = False,
) -> RenderedRow:
    """The text of a conversation, with its tokens counted as training counts them: stretch by stretch.

    Args:
        last_answer_only: as preference training has it, earlier answers are part of the prompt.

    Raises: as `PromptFormat.segments`.
    """
    segments = prompt_format.segments(messages)
    if last_answer_only:
        segments = only_last_trained(segments)
    counts = (
        [len(tokenizer.encode(part.text, add_special_tokens=False).ids) for part in segments] if tokenizer else None
    )
    return RenderedRow(
        text="".join(part.text for part in segments),
        tokens=sum(counts) if counts is not None else None,
        trained_tokens=sum(count for count, part in zip(counts, segments, strict=True) if part.trained)
        if counts is not None
        else None,
        segments=[RenderedSegment(text=part.text, trained=part.trained) for part in segments],
    )
