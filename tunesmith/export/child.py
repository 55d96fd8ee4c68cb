"""Running another program for an export: watched, stoppable, its last words kept.

Converters and C++ libraries fail by ending the process, sometimes without a word
to Python. So each runs in a process of its own, and what it printed last becomes
part of the error.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

POLL_S = 0.05
TERM_GRACE_S = 5.0
TAIL_CHARS = 1500
TAIL_LINES = 12
# Threads that wait by spinning take the processor from those that work: on a busy machine five times slower.
# (libgomp goes by its own variable, others by the standard one.)
PATIENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class ChildFailed(Exception):
    """The program ended with an error.

    Attributes:
        code: its exit status; negative: ended by that signal.
        tail: the last lines it printed.
    """

    def __init__(self, code: int, tail: str) -> None:
        super().__init__(f"exit status {code}: {tail}")
        self.code = code
        self.tail = tail

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.code == -9:
            return "was killed (most likely memory ran out)"
        return f"was ended by signal {-self.code}" if self.code < 0 else f"ended with status {self.code}"


class Child:
    """A program under way; leaving the `with` block ends it.

    Args:
        command: no shell is involved.
        environment: variables on top of this process's.
        told: it waits for what `tell` gives it.
    """

    def __init__(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, told: bool = False
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        try:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if told else subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env={**PATIENT, **os.environ, **(environment or {})},
            )
        except BaseException:
            self._output.close()
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def tell(self, text: str) -> None:
        """Give it its standard input, whole."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended already; `finish` tells how
            self._process.stdin.write(text.encode())
            self._process.stdin.close()

    def finish(self, check: Callable[[], None]) -> str:
        """Wait for its end; the last lines it printed.

        Args:
            check: called every 50 ms; what it raises (a cancelled run) passes on.

        Raises:
            ChildFailed: it ended with a status other than 0.
        """
        while self._process.poll() is None:
            check()
            time.sleep(POLL_S)
        tail = _tail(self._output)
        if self._process.returncode != 0:
            raise ChildFailed(self._process.returncode, tail)
        return tail

    def end(self) -> None:
        """Stop it, if it runs."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(TERM_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._output.close()


def run_child(
    command: Sequence[str | Path], *, check: Callable[[], None], environment: Mapping[str, str] | None = None
) -> str:
    """Run a program to its end and return the last lines it printed. See `Child`, and `Child.finish` for errors."""
    with Child(command, environment=environment) as child:
        return child.finish(check)


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 16_384))
    text = _ANSI.sub("", output.read().decode("utf-8", "replace")).replace("\r", "\n")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-TAIL_LINES:])[-TAIL_CHARS:]
