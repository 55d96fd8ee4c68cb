"""A llama.cpp of the user's own, which comes before the packaged one: in LLAMA_CPP_DIR, then on the PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FOLDER_VARIABLE = "LLAMA_CPP_DIR"
CHOICE_VARIABLE = "TUNESMITH_LLAMA_CPP"  # "packaged": the user's own is left alone
_BINARY_FOLDERS = ("", "bin", "build/bin", "build/bin/Release")
_SUFFIXES = (".exe", "") if os.name == "nt" else ("",)


def is_left_alone() -> bool:
    """Whether only the packaged parts are wanted, whatever else there is."""
    return os.environ.get(CHOICE_VARIABLE, "").strip().lower() == "packaged"


def find_own(name: str) -> Path | None:
    """A program or script of the user's llama.cpp, such as llama-server; None where there is none or it is unwanted."""
    if is_left_alone():
        return None
    if (found := in_user_folder(name)) is not None:
        return Path(found)
    on_path = shutil.which(name)
    return Path(on_path) if on_path else None


def user_folder() -> Path | None:
    """The folder that LLAMA_CPP_DIR names, whether or not it exists; None when the variable is not set."""
    text = os.environ.get(FOLDER_VARIABLE, "").strip()
    return Path(text).expanduser() if text else None


def in_user_folder(name: str) -> str | None:
    """The real path of a part below LLAMA_CPP_DIR, or None."""
    folder = user_folder()
    if folder is None:
        return None
    for place in _BINARY_FOLDERS:
        for suffix in _SUFFIXES if "." not in name else ("",):
            candidate = folder / place / f"{name}{suffix}"
            # Scripts are run by this Python and need not be executable; programs must be.
            if candidate.is_file() and (name.endswith(".py") or os.access(candidate, os.X_OK)):
                return str(candidate.resolve())
    return None
