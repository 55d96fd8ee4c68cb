"""llama.cpp's converter, loaded before there is something to convert.

    python -P convert_child.py CONVERTER

What it needs takes seconds to import: meanwhile the model is merged. Then it reads {"arguments": […],
"pre_tokenizer": …} from its standard input, and ends at once where that is closed without a word.

The converter ends at a tokenizer whose hash it does not know. Where the rules of the tokenizer are known
(models/pre_tokenizer.py), their name stands in. Nothing of this package is imported: the converter's folder comes
first, as if it ran by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_FUNCTION = "get_vocab_base_pre"
# What the converter asks transformers for while it runs: the settings and the tokenizer of some model.
_LATER = ("transformers.models.auto.tokenization_auto", "transformers.models.llama.configuration_llama")


def main(converter: Path) -> None:
    """Run the converter once, on what standard input says."""
    sys.path.insert(0, str(converter.parent))
    sys.argv = [str(converter)]
    module = _loaded(converter)
    said = sys.stdin.read()
    if not said:
        return
    order = json.loads(said)
    sys.argv = [str(converter), *order["arguments"]]
    owner = _owner(module) if module else None
    if module is None or (owner is None and order["pre_tokenizer"]):
        runpy.run_path(str(converter), run_name="__main__")
        return
    if owner is not None and order["pre_tokenizer"]:
        _teach(owner, order["pre_tokenizer"])
    module.main()


def _loaded(converter: Path) -> ModuleType | None:
    """The script as a module; None where it does its work while it is loaded."""
    text = converter.read_text(encoding="utf-8", errors="replace")
    if not (re.search(r"^def main\(", text, re.M) and re.search(r"^if __name__ ==", text, re.M)):
        return None
    spec = spec_from_file_location("converter", converter)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["converter"] = module  # its classes look themselves up there
    spec.loader.exec_module(module)
    if "transformers" in sys.modules:
        for name in _LATER:
            with contextlib.suppress(ImportError):  # another version; the converter knows what it needs
                importlib.import_module(name)
    return module


def _teach(owner: type, pre_tokenizer: str) -> None:
    original = getattr(owner, _FUNCTION)

    def known(self: Any, tokenizer: Any) -> str:
        try:
            return original(self, tokenizer)
        except NotImplementedError:
            return pre_tokenizer

    setattr(owner, _FUNCTION, known)


def _owner(script: ModuleType) -> type | None:
    """The class that names pre-tokenizers: in a module of its own since 2026, before that in the script."""
    for module in (script, sys.modules.get("conversion.base") or _imported("conversion.base")):
        for thing in vars(module).values() if module else ():
            if isinstance(thing, type) and _FUNCTION in vars(thing):
                return thing
    return None


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
