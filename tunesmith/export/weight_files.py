"""Weights in safetensors files, read one tensor at a time and written again in the same layout.

The files are read, not mapped: what is mapped counts as this process' memory until the system takes it back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tunesmith.errors import BadInput

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
COPY_BYTES = 16 * 2**20
# Names of number formats in safetensors; others hold no weights that an adapter could be added to.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    Attributes:
        start, end: bytes from the beginning of the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of weights in it."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class WeightFiles:
    """The tensors of a model folder: `model.safetensors`, or the shards that its index names.

    Raises:
        BadInput: there is neither, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files(folder)
        self.places: dict[str, Place] = {}
        for file in self.files:
            self.places.update(_places(file))

    @property
    def bytes(self) -> int:
        """Size of all tensors together."""
        return sum(place.end - place.start for place in self.places.values())

    @property
    def largest(self) -> int:
        """Weights in the largest tensor."""
        return max((place.elements for place in self.places.values()), default=0)

    def read(self, name: str) -> torch.Tensor:
        """One tensor as it is stored: F32, F16 or BF16."""
        place = self.places[name]
        with place.file.open("rb") as file:
            return _read(file, place)

    def write_like(
        self, output: Path, change: Callable[[str, torch.Tensor], torch.Tensor], changed: set[str], check: Check
    ) -> None:
        """Write the same files with other numbers in some tensors.

        Args:
            output: folder in which none of the files exists.
            change: name and tensor → a tensor of the same shape and dtype.
            changed: the tensors that it is called for; all others are copied as bytes.
            check: called between tensors.
        """
        for source in self.files:
            with source.open("rb") as reading, (output / source.name).open("xb") as writing:
                ordered = sorted(_places(source).items(), key=lambda entry: entry[1].start)
                for name, place in ordered:
                    check()
                    if name in changed:
                        _copy(reading, writing, place.start)
                        tensor = change(name, _read(reading, place))
                        writing.write(_bytes_of(tensor))
                    else:
                        _copy(reading, writing, place.end)
                _copy(reading, writing, source.stat().st_size)
        index = self.folder / INDEX
        if index.is_file():
            (output / INDEX).write_bytes(index.read_bytes())


Check = Callable[[], None]


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise BadInput(f"{index} is damaged ({error}).", next="Fetch or copy the model again.") from error
        # Names from a file that somebody else wrote: none may lead out of the folder.
        found = [folder / Path(str(name)).name for name in names]
    else:
        found = [folder / SINGLE]
    missing = [path.name for path in found if not path.is_file()]
    if missing:
        raise BadInput(f"{folder} lacks {missing[0]}.", next="Fetch or copy the model again.")
    return found


def _places(file: Path) -> dict[str, Place]:
    """The header of a safetensors file: its length in 8 bytes, then JSON, then the tensors."""
    size = file.stat().st_size
    with file.open("rb") as reading:
        length = int.from_bytes(reading.read(8), "little")
        try:
            if not 0 < length <= size - 8:
                raise ValueError("its header does not fit into it")
            header: dict[str, Any] = json.loads(reading.read(length))
            header.pop("__metadata__", None)
            places = {
                name: Place(
                    file,
                    entry["dtype"],
                    tuple(entry["shape"]),
                    8 + length + entry["data_offsets"][0],
                    8 + length + entry["data_offsets"][1],
                )
                for name, entry in header.items()
            }
            if any(place.end > size for place in places.values()):
                raise ValueError("it ends before its last tensor")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{file} is damaged: {error}.", next="Fetch or copy the model again.") from error
    return places


def _read(file: BinaryIO, place: Place) -> torch.Tensor:
    import torch

    data = bytearray(place.end - place.start)
    file.seek(place.start)
    if file.readinto(data) != len(data):  # pyright: ignore[reportAttributeAccessIssue]
        raise BadInput(f"{place.file} ended while it was read.", next="Fetch or copy the model again.")
    dtype = getattr(torch, DTYPES[place.dtype])
    if not data:
        return torch.empty(place.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(place.shape)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _copy(reading: BinaryIO, writing: BinaryIO, until: int) -> None:
    """Bytes from where the output ends, which is the same place in both files."""
    reading.seek(writing.tell())
    for size in _pieces(until - writing.tell()):
        writing.write(reading.read(size))


def _pieces(size: int) -> Iterator[int]:
    while size > 0:
        yield min(size, COPY_BYTES)
        size -= COPY_BYTES
