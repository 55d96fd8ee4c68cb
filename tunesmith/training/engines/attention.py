"""Attention over rows that lie one after the other in one sequence, by the kernel that PyTorch carries with it.

A mask that keeps packed rows apart costs (tokens)² bytes and the fast kernels. FlashAttention's kernel for sequences of
many lengths takes the rows' boundaries instead; PyTorch has it built in (`torch.nn.attention.varlen`).
"""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any

import torch

NAME = "tunesmith_joined"  # of the attention, as transformers knows it
CAUSAL = (-1, 0)  # every token sees all before it, and none after


def register() -> None:
    """Make transformers know the attention `NAME`, which takes `row_ends` and `longest_row` and no mask."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, joined_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def joined_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    row_ends: torch.Tensor,
    longest_row: int,
    scaling: float | None = None,
    **_other: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each row.

    Args:
        query, key, value: [1, heads, tokens, width]; keys and values may have fewer heads.
        row_ends: [rows + 1] in 32 bits: 0, then where each row ends; rows of no tokens may follow the last.
        longest_row: a bound on the tokens of a row.

    Returns:
        [1, tokens, heads, width], and no weights.
    """
    if not query.is_cuda:
        return _row_by_row(query, key, value, row_ends.tolist(), scaling), None
    from torch.nn.attention import varlen

    # Under autocast (where every weight is trained) queries and keys come from their rotation in 32 bits, which the
    # kernel does not take.
    same = (states.to(value.dtype) for states in (query, key, value))
    queries, keys, values = (states.squeeze(0).transpose(0, 1) for states in same)
    grouped = {"enable_gqa": True} if _asks_for_groups() and query.shape[1] != key.shape[1] else {}
    out = varlen.varlen_attn(
        queries,
        keys,
        values,
        row_ends,
        row_ends,
        longest_row,
        longest_row,
        scale=scaling,
        window_size=CAUSAL,
        **grouped,  # pyright: ignore[reportArgumentType]
    )
    assert isinstance(out, torch.Tensor)
    return out.unsqueeze(0), None


def _row_by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: list[int], scaling: float | None
) -> torch.Tensor:
    """The same on a CPU, which PyTorch has no such kernel for."""
    rows = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for start, end in itertools.pairwise(ends)
        if end > start
    ]
    return torch.cat(rows, dim=2).transpose(1, 2)


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    return None


@functools.cache
def _asks_for_groups() -> bool:
    """PyTorch's kernel takes fewer key heads than query heads; from 2.12 it asks to be told so."""
    from torch.nn.attention import varlen

    return "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters


def offer_groups() -> None:
    """Give PyTorch 2.11's kernel the argument of 2.12, without which Unsloth does not use it. Before its import.

    Unsloth then runs one kernel a layer instead of one for each row of a packed sequence.
    """
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return
    kernel = varlen.varlen_attn
    signature = inspect.signature(kernel)
    if "window_size" not in signature.parameters or "enable_gqa" in signature.parameters:
        return

    @functools.wraps(kernel)
    def varlen_attn(*args: Any, enable_gqa: bool = False, **options: Any) -> Any:
        return kernel(*args, **options)

    grouped = inspect.Parameter("enable_gqa", inspect.Parameter.KEYWORD_ONLY, default=False)
    named = signature.replace(parameters=[*signature.parameters.values(), grouped])
    varlen_attn.__signature__ = named  # pyright: ignore[reportAttributeAccessIssue]
    varlen.varlen_attn = varlen_attn


def compile_blocks(model: Any) -> None:
    """Compile the model's decoder blocks, which are all alike, each where it stands. What cannot be compiled stays.

    The first pass takes some 15 s longer. A missing compiler or an operation that cannot be traced is told in the log
    and leaves the block as it was.
    """
    import torch._dynamo.config as dynamo

    dynamo.suppress_errors = True
    decoder = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    for block in decoder.layers:
        block.compile()
