"""Reading a GGUF: its metadata, and where each tensor lies.

The gguf package reads one element at a time through numpy, several seconds for a
vocabulary; a plan needs the vocabulary at once and no weights. The layout is that
of ggml's specification, version 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
VERSION = 3
SMALLEST = 24  # bytes: magic, version, two counts
DEFAULT_ALIGNMENT = 32
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Far beyond any model; a damaged file must not make us allocate what it says.
_MOST_ELEMENTS = 2**24


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies.

    Attributes:
        name: ggml's name, such as blk.0.attn_q.weight.
        shape: rows first, as numpy has it.
        kind: ggml's number of the storage type.
        offset: bytes from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF says about itself."""

    path: Path
    fields: dict[str, Any]
    tensors: tuple[TensorPlace, ...]


def read_gguf(path: Path) -> GgufFile:
    """Read metadata and tensor places; no weights.

    Raises:
        BadInput: not a GGUF of version 3, or damaged.
    """
    with _opened(path) as cursor:
        return _parse(path, cursor)


def read_rows(path: Path, tensor: TensorPlace, at_most: int | None = None) -> np.ndarray:
    """The first rows of a matrix, decoded: float32 of shape (rows, columns). Those of several experts are one below
    the other.
    """
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    kind = GGMLQuantizationType(tensor.kind)
    *outer, columns = tensor.shape
    rows = math.prod(outer)
    shape = (rows if at_most is None else min(at_most, rows), columns)
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(kind)
    stored = shape if plain else quant_shape_to_byte_shape(shape, kind)
    return dequantize(np.memmap(path, plain or np.uint8, "r", offset=tensor.offset, shape=stored), kind)


def context_of(path: Path) -> int | None:
    """Tokens that the model takes at once, prompt and answer together; None where the file does not say.

    Reads up to that field, which stands before the vocabulary.

    Raises: as `read_gguf`.
    """
    architecture: Any = None
    with _opened(path) as cursor:
        for name, value in _fields(path, cursor)[1]:
            if name == "general.architecture":
                architecture = value
            elif name == f"{architecture}.context_length":
                return value if isinstance(value, int) and value > 0 else None
    return None


@contextmanager
def _opened(path: Path) -> Iterator[_Cursor]:
    if path.stat().st_size < SMALLEST:
        raise _damaged(path, "it is too short")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            yield _Cursor(content)
        except (struct.error, UnicodeDecodeError, KeyError, IndexError) as error:
            raise _damaged(path, str(error)) from error


class _Cursor:
    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.position = 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.content, self.position)
        self.position += struct.calcsize(f"<{code}")
        return value

    def count(self) -> int:
        value = self.scalar("Q")
        if value > _MOST_ELEMENTS:
            raise IndexError(f"{value} elements")
        return value

    def text(self) -> str:
        length = self.count()
        end = self.position + length
        if end > len(self.content):
            raise IndexError("a text goes beyond the end")
        value = self.content[self.position : end].decode("utf-8")
        self.position = end
        return value

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        inner, length = self.scalar("I"), self.count()
        if inner in (_STRING, _ARRAY):
            return [self.value(inner) for _ in range(length)]
        code = f"<{length}{_SCALARS[inner]}"
        values = struct.unpack_from(code, self.content, self.position)
        self.position += struct.calcsize(code)
        return list(values)


def _fields(path: Path, cursor: _Cursor) -> tuple[int, Iterator[tuple[str, Any]]]:
    """How many tensors there are, and the metadata, read as it is asked for."""
    magic = bytes(cursor.content[:4])
    cursor.position = 4
    version = cursor.scalar("I")
    if magic != MAGIC or version != VERSION:
        raise _damaged(path, f"magic {magic!r}, version {version}")
    tensor_count, field_count = cursor.count(), cursor.count()

    def read() -> Iterator[tuple[str, Any]]:
        for _ in range(field_count):
            name = cursor.text()
            yield name, cursor.value(cursor.scalar("I"))

    return tensor_count, read()


def _parse(path: Path, cursor: _Cursor) -> GgufFile:
    tensor_count, read = _fields(path, cursor)
    fields = dict(read)
    places = []
    for _ in range(tensor_count):
        name = cursor.text()
        shape = tuple(reversed([cursor.scalar("Q") for _ in range(cursor.scalar("I"))]))
        places.append((name, shape, cursor.scalar("I"), cursor.scalar("Q")))
    alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
    start = -(-cursor.position // alignment) * alignment
    tensors = tuple(TensorPlace(name, shape, kind, start + offset) for name, shape, kind, offset in places)
    return GgufFile(path, fields, tensors)


def _damaged(path: Path, why: str) -> BadInput:
    return BadInput(f"{path} is not a GGUF of version 3, or it is damaged ({why}).", next="Fetch the file again.")
