"""Writing files so that they are whole or absent, and opening only files a caller may read.

Writing: to a temporary name beside the target, fsynced, renamed. A crash leaves
the old file or the new one, never half of one; it may leave a `.tmp-` file. The
directory is not fsynced on every write: after a power cut the newest rename may
be lost, but what is there is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tunesmith.errors import DiskFull, NotFound, PathRefused

TEMPORARY_PREFIX = ".tmp-"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` (text is UTF-8), or leave it as it was.

    Raises:
        DiskFull: there was no room.
    """
    with open_atomic(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise_if_disk_full(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that becomes `path` when the block ends without an exception.

    Whatever is at `path` already is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                fsync_path(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        raise_if_disk_full(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fsync_path(path: Path) -> None:
    """Flush a file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def raise_if_disk_full(error: OSError, path: Path) -> None:
    """Turn "no space left" into a `DiskFull` that names the place."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
        raise DiskFull(
            f"There is no room to write {path.name} in {path.parent} ({free / 2**20:.0f} MiB free).",
            next="Free some space, or choose another place with --workspace, and call again.",
        ) from error


class AllowedRoots:
    """The folders from which a caller may name files.

    Not a security boundary against somebody who can already write inside a root:
    it keeps a chat from wandering over the disk.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(dict.fromkeys(root.expanduser().resolve() for root in roots))

    def resolve(self, path: str | Path) -> Path:
        """The real path behind `path`, links resolved.

        Relative paths are taken from the first root. The result exists.

        Raises:
            PathRefused: it lies outside every root, or is a device, FIFO or socket.
            NotFound: nothing is there.
        """
        text = os.fspath(path)
        if "\0" in text or "\n" in text:
            raise PathRefused("A path holds a NUL or a newline.", next="Give a plain path to a file or folder.")
        if not text.strip():
            raise PathRefused("The path is empty.", next="Give a path to a file or folder.")
        candidate = Path(text).expanduser()
        if not candidate.is_absolute():
            candidate = self.roots[0] / candidate
        try:
            resolved = candidate.resolve(strict=False)
        except (OSError, RuntimeError) as error:
            raise PathRefused(f"{text!r} cannot be resolved ({error}).", next=self._advice()) from error
        # Outside first: whether something exists out there is none of the caller's business.
        self._refuse_outside(resolved, text)
        try:
            mode = resolved.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"There is no file or folder {text!r}.", next=self._advice()) from error
        except OSError as error:
            raise PathRefused(f"{text!r} cannot be looked at ({error.strerror}).", next=self._advice()) from error
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise PathRefused(
                f"{text!r} is neither a regular file nor a folder (a device, FIFO or socket).",
                next="Give a regular file or a folder.",
            )
        return resolved

    def resolve_new(self, path: str | Path) -> Path:
        """The real path of a file to be written; its folder exists and lies under a root.

        Raises:
            PathRefused, NotFound: as `resolve`, for the folder; also when the target is a link or no regular file.
        """
        text = os.fspath(path)
        name = Path(text).name
        if not name or name in (".", "..") or "\0" in text or "\n" in text:
            raise PathRefused(f"{text!r} does not name a file.", next="Give a path that ends in a file name.")
        target = self.resolve(Path(text).parent) / name
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise PathRefused(f"{text!r} is a link or not a regular file.", next="Choose another file name.")
        return target

    def open(self, path: str | Path) -> IO[bytes]:
        """Open a regular file for reading, checking the file that was opened, not the name.

        Between a check by name and an open, a link can be swapped in; so the file
        is opened first, without blocking, and its real path checked after.

        Raises:
            PathRefused, NotFound: as `resolve`.
        """
        resolved = self.resolve(path)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(resolved, flags)
        except OSError as error:
            raise PathRefused(
                f"{os.fspath(path)!r} cannot be read ({error.strerror}).", next="Check the file's permissions."
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PathRefused(f"{os.fspath(path)!r} is not a regular file.", next="Give a regular file.")
            self._refuse_outside(_opened_path(descriptor, resolved), os.fspath(path))
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def _refuse_outside(self, resolved: Path, text: str) -> None:
        if not any(resolved == root or root in resolved.parents for root in self.roots):
            raise PathRefused(f"{text!r} lies outside the folders this server may read.", next=self._advice())

    def _advice(self) -> str:
        shown = ", ".join(str(root) for root in self.roots[:3])
        return f"Use a path under {shown}, or start the server with --allow-root FOLDER."


def _opened_path(descriptor: int, fallback: Path) -> Path:
    """The real path of an open file, where the platform can tell."""
    if sys.platform.startswith("linux"):
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    if sys.platform == "darwin":
        import fcntl

        return Path(os.fsdecode(fcntl.fcntl(descriptor, 50, b"\0" * 1024).rstrip(b"\0")))  # 50 = F_GETPATH
    return fallback.resolve()
