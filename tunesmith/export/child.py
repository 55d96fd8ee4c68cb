"""Running another program for an export: watched, stoppable, its last words kept.

Converters and C++ libraries fail by ending the process, sometimes without a word
to Python. So each runs in a process of its own, and what it printed last becomes
part of the error.
"""

from __future__ import annotations

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


def run_child(
    command: Sequence[str | Path], *, check: Callable[[], None], environment: Mapping[str, str] | None = None
) -> str:
    """Run a program to its end and return the last lines it printed.

    Args:
        command: no shell is involved.
        check: called every 50 ms; what it raises (a cancelled run) ends the program and passes on.
        environment: variables on top of this process's.

    Raises:
        ChildFailed: it ended with a status other than 0.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**PATIENT, **os.environ, **(environment or {})},
        )
        try:
            while process.poll() is None:
                check()
                time.sleep(POLL_S)
        finally:
            _end(process)
        tail = _tail(output)
    if process.returncode != 0:
        raise ChildFailed(process.returncode, tail)
    return tail


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(TERM_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 16_384))
    text = _ANSI.sub("", output.read().decode("utf-8", "replace")).replace("\r", "\n")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-TAIL_LINES:])[-TAIL_CHARS:]
