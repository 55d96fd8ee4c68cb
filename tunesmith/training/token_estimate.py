"""How many tokens a row should have, where the base's tokenizer cannot be had: for plans alone, never for training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tunesmith.data.language import HAN
from tunesmith.data.records import Message, Row
from tunesmith.models.catalogue import KnownBase
from tunesmith.training.examples import IGNORED, Example

# Tokens a character. Measured with SmolLM2 on the example notes: 0.27 and 2.0; Qwen and its like need less for Chinese.
OTHER, CHINESE_LEARNT, CHINESE_FOREIGN = 0.27, 0.75, 2.0
A_TURN, A_DIALOGUE = 5, 24  # tokens that a chat template adds: around each message, and a system message of its own
_IDEOGRAPH = re.compile(f"[{HAN}]")


def estimated(rows: Sequence[Row], base: KnownBase) -> list[Example]:
    """Examples of about the right length. Their token ids mean nothing."""
    chinese = CHINESE_LEARNT if "zh" in base.languages else CHINESE_FOREIGN
    return [_example(row, chinese) for row in rows]


def _example(row: Row, chinese: float) -> Example:
    chosen = _dialogue(row.row_id, row.messages, chinese)
    if row.rejected_messages is None:
        return chosen
    rejected = _dialogue(row.row_id, row.rejected_messages, chinese)
    longer = max(chosen.tokens_before_cut, rejected.tokens_before_cut)
    return replace(chosen, rejected=rejected, tokens_before_cut=longer)


def _dialogue(row_id: str, messages: Sequence[Message], chinese: float) -> Example:
    labels = [IGNORED] * A_DIALOGUE
    for message in messages:
        ideographs = len(_IDEOGRAPH.findall(message.content))
        tokens = A_TURN + round(chinese * ideographs + OTHER * (len(message.content) - ideographs))
        labels += [0 if message.role == "assistant" else IGNORED] * tokens
    return Example(row_id, [0] * len(labels), labels, len(labels))
