"""Files of notes: which of a folder are read, and their text. Whatever is passed over says why."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.data.decoding import decode
from tunesmith.errors import BadInput, UserError
from tunesmith.workspace import Workspace

DocumentKind = Literal["markdown", "text", "rst", "html", "notebook"]

KINDS: dict[str, DocumentKind] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".txt": "text",
    ".rst": "rst",
    ".html": "html",
    ".ipynb": "notebook",
}
# A parsed document takes about twenty times its size in memory.
MAX_FILE_BYTES = 8_000_000
# Most of a big notebook is pictures, which are left out.
MAX_NOTEBOOK_BYTES = 32_000_000
# Nobody writes as many; each may become a heading, and those take most room.
MAX_FILE_LINES = 200_000
_PASSED_OVER = ("node_modules", "__pycache__", "site-packages", "dist-packages", "venv", "CVS", "__MACOSX")


@dataclass(frozen=True, slots=True)
class Document:
    """One file of notes.

    Attributes:
        path: relative to the folder that was read; of a single file, its name.
        sha256: of the file's bytes.
        text: decoded, with `\\n` as the only line end, no NUL and no lone surrogate.
    """

    path: str
    sha256: str
    kind: DocumentKind
    text: str


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file, or a whole folder (its path ends in a slash), that was not read."""

    path: str
    reason: str


def endings() -> str:
    """The endings that are read, for messages."""
    return " ".join(KINDS)


def find(
    workspace: Workspace, source: str | Path, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[tuple[Path, str] | SkippedFile]:
    """The files of a folder that may be notes, as (path, path relative to the folder), and those that are not.

    In the order of their names. Links to folders are not followed, so a loop cannot catch us.
    A single file is taken whatever the globs say.

    Raises:
        NotFound, PathRefused: as `AllowedRoots.resolve`.
        BadInput: a single file of an ending that is not read.
    """
    root = workspace.roots.resolve(source)
    if root.is_file():
        if root.suffix.lower() not in KINDS:
            raise BadInput(
                f"{printable(root.name)} is not a file of notes.",
                next=f"Give a folder, or a file that ends in {endings()}.",
            )
        return [(root, printable(root.name))]
    return list(_walk(root, "", [_glob(pattern) for pattern in include], [_glob(pattern) for pattern in exclude]))


def read(workspace: Workspace, path: Path, relative: str) -> Document | SkippedFile:
    """Open, hash and decode one file. The opened file is checked against the allowed roots, links resolved."""
    kind = KINDS[path.suffix.lower()]
    limit = MAX_NOTEBOOK_BYTES if kind == "notebook" else MAX_FILE_BYTES
    try:
        with workspace.roots.open(path) as file:
            data = file.read(limit + 1)
    except UserError as error:
        # The message names the path as it was found; what matters here is the cause.
        reason = "lies outside the allowed folders" if "outside" in error.message else _cause(error)
        return SkippedFile(relative, reason)
    except OSError as error:
        return SkippedFile(relative, f"cannot be read ({error.strerror or error})")
    if len(data) > limit:
        return SkippedFile(relative, f"larger than {limit // 1_000_000} MB")
    text = decode(data)
    if text is None:
        return SkippedFile(relative, "binary: not text in any encoding")
    if not text.strip():
        return SkippedFile(relative, "empty")
    if kind != "notebook" and text.count("\n") > MAX_FILE_LINES:
        return SkippedFile(relative, f"more than {MAX_FILE_LINES:,} lines")
    return Document(relative, hashlib.sha256(data).hexdigest(), kind, text)


def printable(path: str) -> str:
    """A path that can be written as UTF-8, whatever bytes the file system holds, on one line."""
    return re.sub(r"[\x00-\x1f\x7f]", "\ufffd", os.fsencode(path).decode("utf-8", "replace"))


def _walk(
    folder: Path, prefix: str, include: list[re.Pattern[str]], exclude: list[re.Pattern[str]]
) -> Iterator[tuple[Path, str] | SkippedFile]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield SkippedFile(prefix or "./", f"cannot be listed ({error.strerror})")
        return
    for entry in entries:
        relative = prefix + printable(entry.name)
        if entry.is_dir(follow_symlinks=False):
            reason = _folder_reason(entry.name, relative, exclude)
            if reason:
                yield SkippedFile(f"{relative}/", reason)
            else:
                yield from _walk(Path(entry.path), f"{relative}/", include, exclude)
            continue
        reason = _file_reason(entry, relative, include, exclude)
        yield SkippedFile(relative, reason) if reason else (Path(entry.path), relative)


def _folder_reason(name: str, relative: str, exclude: list[re.Pattern[str]]) -> str | None:
    if name.startswith("."):
        return "hidden folder"
    if name in _PASSED_OVER:
        return "folder of packages or caches"
    return "excluded" if any(pattern.fullmatch(f"{relative}/") for pattern in exclude) else None


def _file_reason(
    entry: os.DirEntry[str], relative: str, include: list[re.Pattern[str]], exclude: list[re.Pattern[str]]
) -> str | None:
    ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  a thousand entries a folder: no Path for each
    if entry.name.startswith("."):
        return "hidden file"
    if _leads_to_folder(entry):
        return "link to a folder, not followed"
    if ending not in KINDS:
        return f"not a notes file ({ending or 'no ending'})"
    if any(pattern.fullmatch(relative) for pattern in exclude):
        return "excluded"
    if include and not any(pattern.fullmatch(relative) for pattern in include):
        return "not included"
    return None


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a loop of links, or a folder we may not look into
        return False


def _cause(error: UserError) -> str:
    if error.error_code == "not_found":
        return "link to a file that is not there"
    if "regular file" in error.message:
        return "not a regular file"
    match = re.search(r"\((.*)\)\.?$", error.message)
    return f"cannot be read ({match.group(1)})" if match else "cannot be read"


def _glob(pattern: str) -> re.Pattern[str]:
    """A glob over relative paths: `*` and `?` within one name, `**` over folders; without a slash, of any folder.

    A pattern that ends in a slash, or names a folder, takes everything below it.
    """
    text = pattern.removeprefix("./").strip("/") if pattern.strip("/") else pattern
    anchored = "/" in pattern.rstrip("/")
    parts = [_glob_part(part) for part in text.split("/")]
    joined = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part is None:
            joined += ".*" if last else "(?:.*/)?"
        else:
            joined += part + ("" if last else "/")
    return re.compile(("" if anchored else "(?:.*/)?") + joined + "(?:/.*)?", re.DOTALL)


def _glob_part(part: str) -> str | None:
    if part == "**":
        return None
    found = ""
    index = 0
    while index < len(part):
        char = part[index]
        closing = part.find("]", index + (3 if part[index + 1 : index + 2] == "!" else 2)) if char == "[" else -1
        if char == "*":
            found += "[^/]*"
        elif char == "?":
            found += "[^/]"
        elif closing > 0:
            found += _glob_set(part[index + 1 : closing])
            index = closing
        else:
            found += re.escape(char)
        index += 1
    return found


def _glob_set(inner: str) -> str:
    """What stands between brackets as a regular expression: `a-c` is a range, a leading `!` means any other."""
    negated = inner.startswith("!")
    found = ""
    for first, last, single in re.findall(r"(.)-(.)|(.)", inner.removeprefix("!"), re.DOTALL):
        if single:
            found += re.escape(single)
        elif first <= last:
            found += f"{re.escape(first)}-{re.escape(last)}"
    if not found:  # only ranges that run backwards, in which nothing lies
        return "[^/]" if negated else "(?!)"
    return f"[^/{found}]" if negated else f"[{found}]"
