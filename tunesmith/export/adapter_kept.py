"""How much of what an adapter changed is still in a quantised file.

Rounding usually hits base and adapter alike, and what was learned stays in the sum over many weights. It does not where
the base's weights lie on a grid of few values, as those of a base that was published in 4 bits do: a finer grid that
contains theirs rounds each weight back to where the base had it. The error is small then, and the adapter is gone.

With q the file's weight, b the base's and d the merged weight minus b, over sampled weights:

    kept = sum (q - b) d / sum d²

1: all of it; 0: the file answers as the base does. Of SmolLM2-135M, whose base was published as Q4_1, q5_k_m with an
importance matrix has a fifth of the rounding error and holds 59 % (`benchmarks/export/kept.py`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.export.importance import ggml_names
from tunesmith.export.weight_files import WeightFiles
from tunesmith.models.gguf_file import read_gguf, read_rows

if TYPE_CHECKING:
    import numpy as np

# Converters reorder the rows of queries and keys.
IN_ORDER = ("ffn_down", "ffn_up", "ffn_gate", "attn_v", "attn_output")
TENSORS, ROWS, SEED = 12, 128, 42
SAME = 0.01  # of the weights' own size: the f16 file has the merged weights in the same places
# A share that is not known better than this says nothing; below the limit the user is told.
WORST_ERROR, NOTEWORTHY = 0.05, 0.85


@dataclass(frozen=True)
class Changed:
    """The first rows of one matrix, float32 of shape (rows, columns).

    Attributes:
        name: ggml's name of it.
        base: before the adapter.
        change: what merging added.
    """

    name: str
    base: np.ndarray
    change: np.ndarray


def sample_changes(base: Path, merged: Path, source: Path) -> list[Changed]:
    """Matrices that the adapter changed, from all over the model.

    Args:
        base, merged: folders with safetensors.
        source: the merged weights as an f16 GGUF.
    """
    import numpy as np

    before, after, file = WeightFiles(base), WeightFiles(merged), read_gguf(source)
    places = {tensor.name: tensor for tensor in file.tensors}
    names = ggml_names(file)
    known = [(name, names(name)) for name in after.places if name in before.places]
    usable = [(name, ggml) for name, ggml in known if ggml in places and ggml.split(".")[-2] in IN_ORDER]
    found = []
    # Drawn: at even steps it could be the same kind of matrix in every layer, and the adapter have left that alone.
    for name, ggml in random.Random(SEED).sample(usable, min(TENSORS, len(usable))):
        old, new = (files.read(name)[:ROWS].float().numpy() for files in (before, after))
        stored = read_rows(source, places[ggml], ROWS)
        alike = old.ndim == 2 and old.shape == new.shape == stored.shape
        if alike and (old != new).any() and np.abs(stored - new).max() <= SAME * np.abs(new).max():
            found.append(Changed(ggml, old, new - old))
    return found


def share_kept(changes: Sequence[Changed], file: Path) -> float | None:
    """The share of the changes that is in a GGUF; None where it cannot be told to 0.05."""
    import numpy as np

    places = {tensor.name: tensor for tensor in read_gguf(file).tensors}
    if not changes or any(one.name not in places for one in changes):
        return None
    got = _one([read_rows(file, places[one.name], ROWS) - one.base for one in changes])
    change = _one([one.change for one in changes])
    size = (change * change).sum()
    share = (got * change).sum() / size
    error = np.sqrt(np.square((got - share * change) * change).sum()) / size
    return round(float(share), 3) if error <= WORST_ERROR else None


def _one(parts: Sequence[np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.concatenate([part.ravel() for part in parts]).astype(np.float64)


def note_on(quantization: str, kept: float | None) -> str | None:
    """What the user should know of a file that lost much."""
    if kept is None or kept >= NOTEWORTHY:
        return None
    return (
        f"{quantization} holds {kept:.0%} of what the adapter changed. Most likely the base's own weights lie on a "
        "grid of few values, and rounding takes the changed ones back to it. A finer file, such as q8_0, holds it all."
    )
