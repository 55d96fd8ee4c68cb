"""A program in a terminal: a real pseudo terminal that it controls, so that Ctrl-C and hanging up are real too."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from typing import Self

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """`python -m tunesmith ARGUMENTS` in a terminal of so many columns."""

    def __init__(
        self, arguments: Sequence[str], *, columns: int = 80, environment: dict[str, str] | None = None
    ) -> None:
        self._mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        removed = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        variables = {name: value for name, value in os.environ.items() if name not in removed}
        self.process = subprocess.Popen(
            # It takes its standard input as the terminal it is controlled by, then becomes tunesmith. What runs the
            # tests may ignore Ctrl-C, as all that a script starts with & does; a program at a prompt does not.
            [sys.executable, "-c", _TAKE_TERMINAL, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**variables, "TERM": "xterm-256color", **(environment or {})},
        )
        os.close(theirs)
        self._bytes = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def wait_for(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Read until the pattern was written; its first match in the text without terminal codes."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.text)) is None:
            assert self._read(deadline), f"{pattern!r} was not written; this was: {self.text[-3000:]}"
        return found

    def end(self, seconds: float = 30) -> int:
        """Read until the program has ended; its exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def press(self, keys: bytes) -> None:
        """Type, e.g. b"\\x03" for Ctrl-C."""
        os.write(self._mine, keys)

    def hang_up(self) -> None:
        """Close the terminal: the system sends SIGHUP."""
        if self._mine >= 0:
            os.close(self._mine)
            self._mine = -1

    @property
    def text(self) -> str:
        """All that was written, without terminal codes."""
        return _CODES.sub("", self._bytes.decode(errors="replace"))

    @property
    def raw(self) -> str:
        """All that was written."""
        return self._bytes.decode(errors="replace")

    def _read(self, deadline: float) -> bool:
        """Read something; False at the end or when the time is over."""
        ready, _, _ = select.select([self._mine], [], [], max(0.0, deadline - time.monotonic()))
        try:
            found = os.read(self._mine, 65536) if ready else b""
        except OSError:  # Linux: the other side is closed
            found = b""
        self._bytes += found
        return bool(found)


_TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.executable, [sys.executable, '-m', 'tunesmith', *sys.argv[1:]])"
)
