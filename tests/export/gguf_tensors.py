"""The tensors of a GGUF as arrays; the gguf package's own reader takes five seconds for a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quant_shape_to_byte_shape

from tunesmith.models.gguf_file import read_gguf

_NUMBERS = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}


@dataclass(frozen=True)
class Tensor:
    """Its storage type, and its numbers or encoded bytes, mapped from the file."""

    kind: GGMLQuantizationType
    data: np.ndarray

    @property
    def values(self) -> np.ndarray:
        return dequantize(self.data, self.kind)


def tensors(path: Path, mode: Literal["r", "r+"] = "r") -> dict[str, Tensor]:
    """By name. With mode r+ what is written into the arrays goes to the file."""
    found = {}
    for place in read_gguf(path).tensors:
        kind = GGMLQuantizationType(place.kind)
        dtype = _NUMBERS.get(kind, np.uint8)
        shape = place.shape if kind in _NUMBERS else quant_shape_to_byte_shape(place.shape, kind)
        found[place.name] = Tensor(kind, np.memmap(path, dtype, mode, offset=place.offset, shape=shape))
    return found
