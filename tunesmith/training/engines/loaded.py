"""What an engine hands to the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A base model with a fresh adapter, or to be trained as a whole; ready.

    Attributes:
        model: the PEFT model; with method full the model itself, its weights in 32 bits.
        tokenizer: the tokenizer as transformers has it; the trainer only pads with it.
        device: "cuda" or "cpu".
        device_name: for the reader.
        dtype: number format of the computation, "float32", "bfloat16" or "float16".
        dtype_reason: why that one.
        joins: packed rows are kept apart by their boundaries, without a mask (`attention.py`).
    """

    model: Any
    tokenizer: Any
    device: str
    device_name: str
    dtype: str
    dtype_reason: str
    joins: bool = False
