"""llama.cpp's converter, told which pre-tokenizer a tokenizer has.

    python -P convert_child.py CONVERTER PRE-TOKENIZER ARGUMENTS...

The converter ends at a tokenizer whose hash it does not know. Where the rules of
the tokenizer are known (models/pre_tokenizer.py), their name stands in. Nothing of
this package is imported: the converter's folder comes first, as if it ran by itself.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_FUNCTION = "get_vocab_base_pre"


def main(converter: Path, pre_tokenizer: str, arguments: list[str]) -> None:
    """Run the converter as if it knew the tokenizer."""
    sys.path.insert(0, str(converter.parent))
    sys.argv = [str(converter), *arguments]
    spec = spec_from_file_location("converter", converter)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["converter"] = module  # its classes look themselves up there
    spec.loader.exec_module(module)
    owner = _owner(module)
    if owner is None:
        runpy.run_path(str(converter), run_name="__main__")
        return
    original = getattr(owner, _FUNCTION)

    def known(self: Any, tokenizer: Any) -> str:
        try:
            return original(self, tokenizer)
        except NotImplementedError:
            return pre_tokenizer

    setattr(owner, _FUNCTION, known)
    module.main()


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
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
