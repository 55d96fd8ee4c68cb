"""What llama.cpp's quantiser can be told and the packaged binding has no setter for."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class _Entry(ctypes.Structure):
    """llama.h: struct llama_model_imatrix_data."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))


class _Override(ctypes.Structure):
    """llama.h: struct llama_model_tensor_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


class _Parameters(ctypes.Structure):
    """llama.h: struct llama_model_quantize_params."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.c_void_p),
        ("prune_layers", ctypes.c_void_p),
    )


_SETTABLE = tuple(field[0] for field in _Parameters._fields_[:10])
_POINTERS = tuple(field[0] for field in _Parameters._fields_[10:])


def hand_over(parameters: Any, matrix: Mapping[str, np.ndarray], types: Mapping[str, str]) -> Any:
    """Give the packaged quantiser an importance matrix, and types for single tensors.

    The binding's object holds llama.cpp's structure and has no setters for these pointers, so they are written into
    the structure itself, after every other field was found where llama.h has it.

    Args:
        parameters: cyllama's LlamaModelQuantizeParams, all else set.
        matrix: tensor → what its columns count; empty: none is given.
        types: tensor → GGML type such as Q5_0; empty: llama.cpp chooses.

    Returns:
        What must stay alive while the quantiser works.

    Raises:
        LookupError: this version of the binding holds something else.
    """
    import numpy as np
    from gguf import GGMLQuantizationType

    place = type(parameters).__basicsize__ - ctypes.sizeof(_Parameters)
    if place < object.__basicsize__:
        raise LookupError("the binding's parameters are smaller than llama.cpp's")
    inside = _Parameters.from_address(id(parameters) + place)
    _recognise(parameters, inside)
    arrays = [np.ascontiguousarray(values, dtype=np.float32) for values in matrix.values()]
    entries = (_Entry * (len(arrays) + 1))()  # the last, without a name, ends the list
    for entry, name, values in zip(entries, matrix, arrays, strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    if matrix:
        inside.imatrix = ctypes.addressof(entries)
    overrides = (_Override * (len(types) + 1))()
    for override, (name, kind) in zip(overrides, types.items(), strict=False):
        override.pattern = pattern(name).encode()
        override.type = GGMLQuantizationType[kind].value
    if types:
        inside.tt_overrides = ctypes.addressof(overrides)
    return entries, arrays, overrides


def pattern(tensor: str) -> str:
    """The regular expression by which llama.cpp finds one tensor."""
    return f"^{re.escape(tensor)}$"


def _recognise(parameters: Any, inside: _Parameters) -> None:
    """Change each field through the binding and see that it changes here."""
    for name in _SETTABLE:
        before = getattr(parameters, name)
        for value in (not before, before) if isinstance(before, bool) else (before + 1, before):
            setattr(parameters, name, value)
            if getattr(inside, name) != value:
                raise LookupError(f"the binding's parameters have {name} elsewhere")
    if any(getattr(inside, name) for name in _POINTERS):
        raise LookupError("the binding's parameters have something else where pointers should be")
