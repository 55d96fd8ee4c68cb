"""Workers that are forked from a process which has the libraries already.

Each is a process of its own that does what `python -m tunesmith.ROOM.worker RUN_DIR` does, without the seconds that
importing takes. That the command itself starts is seen by the tests that go through the server.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["tunesmith.training.worker", "tunesmith.export.worker", "tunesmith.export.exporting"]
    + [f"tunesmith.training.engines.{module}" for module in ("sft", "transformers_engine", "watch")]
)


class WarmWorker:
    """A worker under way, used like a `subprocess.Popen`."""

    def __init__(self, room: str, run_dir: Path, environment: Mapping[str, str]) -> None:
        self._process = _CONTEXT.Process(target=_work, args=(room, str(run_dir), dict(environment)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a warm worker", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_script(script: Path, *arguments: str) -> str:
    """What `python SCRIPT ARGUMENTS` prints, errors among it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        process = _CONTEXT.Process(target=_script, args=(str(script), arguments, str(output), dict(os.environ)))
        process.start()
        process.join(120)
        if process.exitcode is None:
            process.kill()
            process.join()
        said = output.read_text(encoding="utf-8", errors="replace")
        assert process.exitcode == 0, said
        return said


def _script(script: str, arguments: tuple[str, ...], output: str, environment: dict[str, str]) -> None:
    _become(output, environment, [script, *arguments])
    runpy.run_path(script, run_name="__main__")


def _work(room: str, run_dir: str, environment: dict[str, str]) -> None:
    _become(str(Path(run_dir) / "log.txt"), environment, ["worker", run_dir])
    # What `python -m` does; the module itself is executed anew, as __main__, and what it imports is there already.
    module = f"tunesmith.{room}.worker"
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__")


def _become(log: str, environment: dict[str, str], arguments: list[str]) -> None:
    """Take over a program's output, variables and arguments."""
    file = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
