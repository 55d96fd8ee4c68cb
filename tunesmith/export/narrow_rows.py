"""Better types for matrices whose rows the k-quants cannot hold.

Q5_K stores rows in blocks of 256 weights. Where a row is no multiple of that (SmolLM2-135M: 576), llama.cpp takes Q5_1
instead: 32 steps from the smallest to the largest of each 32 weights. Mostly that is nearer than Q5_0, which takes the
same steps around zero and a sixteenth less room. For weights that lie on 16 steps between the same two ends, as those
of a base that was published as Q4_1 or Q4_K do, it is not: 31 does not divide into 15, and every weight is moved away
from the middle of its block, all errors in one direction.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.models.gguf_file import read_gguf, read_rows

if TYPE_CHECKING:
    import numpy as np

INSTEAD = "Q5_1"
NEARER = "Q5_0"
# What is saved is spent where an error costs most: of SmolLM2-135M's divergence at five bits a quarter came from here,
# which has a thirtieth of the weights.
SPENT_ON, SPENT_AS = "attn_v", "Q8_0"
UNQUANTISED = ("F32", "F16", "BF16")
SAMPLED_TENSORS, SAMPLED_ROWS = 8, 64


def better_types(source: Path, plain: Path) -> dict[str, str]:
    """How the tensors of `plain` should be stored where llama.cpp's choice is not the nearest.

    Args:
        source: the f16 GGUF.
        plain: the same model as llama.cpp quantises it.

    Returns:
        Tensor → GGML type, of every quantised tensor: llama.cpp gives out its mixture layer by layer, and counts only
        those it was told nothing about. Empty where it chose well or had no need of another type.
    """
    from gguf import GGMLQuantizationType

    types = {tensor.name: GGMLQuantizationType(tensor.kind).name for tensor in read_gguf(plain).tensors}
    chosen = [name for name, kind in types.items() if kind == INSTEAD]
    if not chosen:
        return {}
    weights = {tensor.name: tensor for tensor in read_gguf(source).tensors}
    sampled = [read_rows(source, weights[name], SAMPLED_ROWS) for name in chosen[:: -(-len(chosen) // SAMPLED_TENSORS)]]
    if sum(_error(rows, NEARER) for rows in sampled) >= sum(_error(rows, INSTEAD) for rows in sampled):
        return {}
    better = {name: SPENT_AS if f".{SPENT_ON}." in name else NEARER for name in chosen}
    return {name: kind for name, kind in (types | better).items() if kind not in UNQUANTISED}


def _error(rows: np.ndarray, kind: str) -> float:
    """Mean square of what rounding to a type changes, against that of the weights."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    rounded = quants.dequantize(quants.quantize(rows, GGMLQuantizationType[kind]), GGMLQuantizationType[kind])
    return float(np.square(rounded - rows).mean() / np.square(rows).mean())
