"""How much memory a run needs in which every weight is trained, from the model's config alone. See `memory.py`.

Weights, their gradients and AdamW's state are in 32 bits (or 8, see below), so that most of the memory does not depend
on the batch: 16 bytes a weight, 10 with 8-bit AdamW. On a card the computation is in 16 bits by autocast: each matrix
is cast when it is used, and the cast copy is kept for the backward pass unless activations are recomputed.

Three moments can be the peak, and which one it is depends on the run:
- the end of the forward pass: all activations, a chunk of scores, and the gradient of the head, which is made along
  with the scores (`engines/trained_head.py`). In a step of several passes the gradients of the earlier ones are there.
- the start of the backward pass, with one block at work.
- its end: all gradients. The embedding's comes last, as large as the head's; where both are one matrix the two are
  added up, and the head's has waited for it.

Sources: the forward passes of transformers 5.17 and of torch's autocast, read; bitsandbytes 0.50 keeps the state of
embeddings in 32 bits (transformers' `create_optimizer` asks for it).
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.training.memory import ADAM_8BIT_BYTES, GIB, Load, Shape, logit_tokens
from tunesmith.training.records import MemoryBreakdown

CPU_GAPS = 9  # activations of so many blocks
FLOAT = 4  # bytes of a weight, a gradient, a number of AdamW's state in 32 bits


@dataclass(frozen=True)
class _Needs:
    """Bytes at the three moments, weights and optimizer aside."""

    forward_end: float
    backward_start: float
    backward_end: float


def predict_whole(shape: Shape, load: Load) -> MemoryBreakdown:
    """The predicted peak, term by term, in GiB. Its sum is the estimate."""
    weights = FLOAT * shape.parameters
    optimizer = _optimizer_bytes(shape, load)
    gradients = FLOAT * shape.parameters
    scores = logit_tokens(shape, load) * shape.vocabulary * (load.unit + FLOAT)
    needs = _needs(shape, load, gradients, scores)
    peak = max(needs.forward_end, needs.backward_start, needs.backward_end)
    passing = peak - gradients
    logits = min(passing, scores + _head_bytes(shape, load))
    terms = {
        "weights": weights,
        "adapter": 0.0,
        "optimizer": optimizer,
        "gradients": gradients,
        "activations": passing - logits,
        "logits": logits,
        "overhead": _overhead_bytes(shape, load, passing),
    }
    return MemoryBreakdown(**{name: round(count / GIB, 4) for name, count in terms.items()})


def _optimizer_bytes(shape: Shape, load: Load) -> float:
    if "8bit" not in load.optimizer:
        return 2 * FLOAT * shape.parameters
    embedding = shape.vocabulary * shape.hidden
    return (shape.parameters - embedding) * ADAM_8BIT_BYTES + 2 * FLOAT * embedding


def _needs(shape: Shape, load: Load, gradients: float, scores: float) -> _Needs:
    matrix = FLOAT * shape.vocabulary * shape.hidden  # the embedding's gradient, and the head's
    earlier = gradients if load.accumulates else 0.0
    block = load.tokens * _block_bytes(shape, load)
    if load.recompute:
        saved = shape.layers * load.tokens * shape.hidden * FLOAT
        at_work = block + _passing_bytes(shape, load)
    else:
        saved = shape.layers * block + (2 * shape.linear_parameters if load.device == "cuda" else 0)
        at_work = _passing_bytes(shape, load)
    waiting = matrix if shape.tied and load.accumulates else 0.0
    return _Needs(
        forward_end=earlier + saved + scores + _head_bytes(shape, load),
        backward_start=earlier + saved + matrix + at_work,
        backward_end=gradients + waiting + matrix,
    )


def _head_bytes(shape: Shape, load: Load) -> float:
    """The head's gradient as it is summed; on a card with the head in 16 bits and a chunk's share of the gradient."""
    return shape.vocabulary * shape.hidden * (FLOAT + (4 if load.device == "cuda" else 0))


def _block_bytes(shape: Shape, load: Load) -> float:
    """What one block saves for its backward pass, a token. What flows from block to block is in 32 bits."""
    unit = load.unit
    norms = 4 if shape.model_type.startswith(("gemma2", "gemma3")) else 2
    heads = shape.query_width + shape.key_width if shape.model_type.startswith(("qwen3", "gemma3")) else 0
    # A norm keeps its input and what its weight is multiplied with.
    normed = 2 * FLOAT * norms * shape.hidden + (FLOAT + unit) * heads
    # Of queries, keys, values, gate and up: under autocast each casts its own.
    inputs = unit * (5 if load.device == "cuda" else 2) * shape.hidden
    keys_and_values, mask = 2 * shape.key_width, 0
    if load.device == "cuda" and load.masked:
        # With a mask, transformers repeats keys and values for each query head, and torch keeps the mask as numbers.
        keys_and_values = 2 * shape.query_width
        mask = unit * (load.tokens if load.packed else load.length)
    attention = unit * (2 * shape.query_width + keys_and_values) + mask
    if load.compiled:  # what is cheap is computed again
        shared = FLOAT * norms * shape.hidden + unit * 2 * shape.hidden
        return shared + attention + unit * 3 * shape.intermediate
    return normed + inputs + attention + unit * 4 * shape.intermediate  # gate, activated gate, up, and their product


def _passing_bytes(shape: Shape, load: Load) -> float:
    """Gradients within a block while it is at work."""
    return load.tokens * (load.unit * 4 * shape.intermediate + FLOAT * 4 * shape.hidden)


def _overhead_bytes(shape: Shape, load: Load, passing: float) -> float:
    if load.device == "cpu":
        # Interpreter, torch and the libraries; and malloc's gaps between pieces of many lengths. Fitted to eleven runs
        # with the 135M model, 256 to 2,048 tokens a pass, recomputed and not: within 9 % (test_memory.py has them).
        return 0.6 * GIB + 0.1 * passing + CPU_GAPS * load.tokens * _block_bytes(shape, load)
    # As for adapters; and the largest matrix, cast, with its gradient in both number formats.
    largest = max(a * b for a, b in shape.modules.values())
    return 0.2 * GIB + 0.01 * passing + (2 + 2 + FLOAT) * largest
