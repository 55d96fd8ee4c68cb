"""The texts that an export is checked on, as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.export.quality import TokenRow

if TYPE_CHECKING:
    import tokenizers

    from tunesmith.models.prompt_format import PromptFormat

# Enough for a mean divergence to a tenth, few enough for a laptop: two cores read 300 tokens/s of a 135M model.
MAX_TOKENS = 512
MAX_POSITIONS = 512
MAX_ROW_TOKENS = 512


def token_rows(
    conversations: Iterable[Sequence[Any]],
    prompt_format: PromptFormat,
    tokenizer: tokenizers.Tokenizer,
    *,
    max_tokens: int = MAX_TOKENS,
    max_positions: int = MAX_POSITIONS,
) -> list[TokenRow]:
    """Conversations as the model was trained on them, until so many tokens or positions are reached.

    Args:
        conversations: messages with role and content. One without an answer within its first 512 tokens is
            left out; a longer one is cut there.
        tokenizer: the model's own.
    """
    rows: list[TokenRow] = []
    tokens = positions = 0
    for messages in conversations:
        row = _token_row(messages, prompt_format, tokenizer)
        if row is None:
            continue
        tokens += len(row.ids)
        positions += len(row.positions)
        if rows and (tokens > max_tokens or positions > max_positions):
            break
        rows.append(row)
    return rows


def _token_row(
    messages: Sequence[Any], prompt_format: PromptFormat, tokenizer: tokenizers.Tokenizer
) -> TokenRow | None:
    ids: list[int] = []
    positions: list[int] = []
    # Segment by segment, as in training: no token straddles prompt and answer.
    for segment in prompt_format.segments(messages):
        encoded = tokenizer.encode(segment.text, add_special_tokens=False).ids
        if segment.trained:
            positions += range(len(ids) - 1, len(ids) + len(encoded) - 1)
        ids += encoded
    ids = ids[:MAX_ROW_TOKENS]
    positions = [position for position in positions if 0 <= position < len(ids) - 1]
    return TokenRow(ids=ids, positions=positions) if positions else None
