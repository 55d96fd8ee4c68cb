"""Which of the fast ways of computing a model and a card allow. torch is not imported.

Measured on an H100 with Qwen2.5-7B shapes in 16 bits (`docs/benchmarks.md`): packed rows without a mask and compiled
blocks are what makes the transformers engine the fastest one there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROW_ENDS, LONGEST = "row_ends", "longest_row"  # what such attention is told instead of a mask
TRAINED = "trained_at"  # where the trained tokens are, for who would have to wait for the card to know
MIN_CAPABILITY = 8.0  # FlashAttention's kernels want an Ampere card or a newer one
MIN_TORCH = (2, 11)
# Attention over all earlier tokens by scaled products and nothing more, and scores that are the head's product.
PLAIN_MODELS = frozenset({"llama", "qwen2", "qwen3", "mistral"})
# Forward and backward passes after which the time that compiling takes is won back: about 20 s, against 0.08 to 0.11 s
# that each pass is faster (7B and 0.5B, 2,048 tokens a pass).
WORTH_COMPILING = 250


def keeps_rows_apart(config: Mapping[str, Any], *, capability: float | None, torch: tuple[int, ...]) -> bool:
    """Whether packed rows are kept apart by their boundaries, without a mask.

    Args:
        config: the model's `config.json`.
        capability: CUDA's compute capability of the card; None on a CPU, where each row is computed by itself.
        torch: its version, as `machine.packages.numbers` gives it.
    """
    heads = int(config.get("num_attention_heads") or 1)
    head = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if config.get("model_type") not in PLAIN_MODELS or window is not None:
        return False
    if capability is None:
        return True
    return capability >= MIN_CAPABILITY and torch >= MIN_TORCH and 0 < head <= 256 and head % 8 == 0


def worth_compiling(steps: int, accumulation: int) -> bool:
    """Whether a run is long enough for its blocks to be compiled first."""
    return steps * accumulation >= WORTH_COMPILING
