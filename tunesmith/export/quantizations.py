"""The GGUF precisions that can be asked for, and what may be expected of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.errors import InvalidArgument

DEFAULT = ("q4_k_m",)


@dataclass(frozen=True)
class Quantization:
    """One precision.

    Attributes:
        ftype: llama.cpp's number for it (`llama_ftype` in llama.h).
        bits: bits per weight of a whole file, about; for the check of free space.
        worst_kld: mean divergence in nats above which the file is not a coarser copy of the model but
            a broken one. Set far above what was seen: see `quality.py`.
        guided: so coarse that trying an importance matrix is worth a second file.
        falls_back: where rows are narrow it may be made a second time, with other types (`narrow_rows.py`).
    """

    ftype: int
    bits: float
    worst_kld: float
    guided: bool = False
    falls_back: bool = False


QUANTIZATIONS: dict[str, Quantization] = {
    "f16": Quantization(ftype=1, bits=16.1, worst_kld=0.02),
    "bf16": Quantization(ftype=32, bits=16.1, worst_kld=0.05),
    "q8_0": Quantization(ftype=7, bits=8.6, worst_kld=0.2),
    "q6_k": Quantization(ftype=18, bits=8.3, worst_kld=0.3),
    "q5_k_m": Quantization(ftype=17, bits=6.8, worst_kld=1.0, falls_back=True),
    "q4_k_m": Quantization(ftype=15, bits=6.4, worst_kld=1.0),
    "q4_0": Quantization(ftype=2, bits=5.6, worst_kld=1.5, guided=True),
    "iq4_xs": Quantization(ftype=30, bits=5.6, worst_kld=1.5, guided=True),
}
# What the converter of adapters can write.
ADAPTER_TYPES = ("f16", "bf16", "q8_0")


def check_quantizations(names: Sequence[str] | None, *, adapter_only: bool = False) -> tuple[str, ...]:
    """The precisions asked for, in order, each once.

    Args:
        names: case and `-` against `_` do not matter. None, or the default of the tool for an adapter
            (which is not quantised to 4 bits), stands for the default.
        adapter_only: the file will hold the adapter alone.

    Raises:
        InvalidArgument: unknown, or not available for an adapter; names the nearest.
    """
    if names is None:
        return ("f16",) if adapter_only else DEFAULT
    if not names:
        raise InvalidArgument("quantizations is empty.", next=f"Give at least one of {', '.join(QUANTIZATIONS)}.")
    found = tuple(dict.fromkeys(_known(name) for name in names))
    if not adapter_only:
        return found
    if found == DEFAULT:
        return ("f16",)
    wrong = [name for name in found if name not in ADAPTER_TYPES]
    if wrong:
        raise InvalidArgument(
            f"An adapter cannot be written as {', '.join(wrong)}.",
            next=f"With adapter_only=true give one of {', '.join(ADAPTER_TYPES)}, or leave quantizations out.",
        )
    return found


def _known(name: str) -> str:
    from difflib import get_close_matches

    tidy = str(name).strip().lower().replace("-", "_")
    if tidy in QUANTIZATIONS:
        return tidy
    near = get_close_matches(tidy, QUANTIZATIONS, n=1, cutoff=0.0)[0]
    raise InvalidArgument(
        f"There is no quantization {str(name)[:40]!r}; the nearest is {near}.",
        next=f"Use one of {', '.join(QUANTIZATIONS)}.",
    )
