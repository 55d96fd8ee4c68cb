"""A GGUF behind a llama.cpp server of its own, for as long as a `with` block lasts.

The user's own `llama-server` comes before the packaged one: it may know a GPU.
Prompts are sent to it as token ids that the PromptFormat's rendering and the
model's own tokenizer give, never as messages: the server's reading of a chat
template, and the token that a runtime puts before every text, cannot differ from
training if neither is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO

from tunesmith.errors import MissingExtra, ServiceFailed
from tunesmith.own_llama_cpp import CHOICE_VARIABLE, FOLDER_VARIABLE, find_own

START_DEADLINE_S = 120.0
KILL_AFTER_S = 5.0
LOG_TAIL_BYTES = 4096
MIN_CONTEXT = 512
_MODULE = "tunesmith.models.server_process"
_PROGRAM, _PACKAGE = "llama-server", "xllamacpp"
# Of a user's llama-server: they would change where it listens or whom it answers.
_NOT_PASSED_ON = ("LLAMA_ARG_API_KEY_FILE", "LLAMA_ARG_API_PREFIX", "LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE")


class Served:
    """A running llama.cpp server. Use as a context manager.

    Args:
        gguf: the model.
        context: tokens a request may take, prompt and answer together.
        slots: requests answered at once.
        threads: computing threads; default: `idle_threads()`.
        log: file for llama.cpp's log; default: a temporary one, gone with the server.
        deadline_s: seconds the model may take to load.

    Attributes:
        base_url: of the OpenAI-compatible API, ending in /v1; set once started.
        slots: as given.
        program: the user's llama-server, None for the packaged one; set once started.
    """

    def __init__(
        self,
        gguf: Path,
        *,
        context: int,
        slots: int = 1,
        threads: int | None = None,
        log: Path | None = None,
        deadline_s: float = START_DEADLINE_S,
    ) -> None:
        self.gguf = gguf
        self.context = -(-max(context, MIN_CONTEXT) // 256) * 256
        self.slots = slots
        self.threads = threads
        self.log = log
        self.deadline_s = deadline_s
        self.base_url = ""
        self.program: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_file: IO[bytes] | None = None

    def __enter__(self) -> Served:
        """Start it and wait until it answers.

        Raises:
            MissingExtra: there is no llama-server, and the packaged llama.cpp is not installed.
            ServiceFailed: the model does not load, or not in time; the end of the log is in the message.
        """
        if not can_serve():
            raise MissingExtra(_PACKAGE, extra="embedded", purpose="serve GGUF models")
        self.program = find_own(_PROGRAM)
        self._log_file = self.log.open("ab+") if self.log else tempfile.TemporaryFile("w+b")
        try:
            self._start()
            self.base_url = f"{self._address()}/v1"
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def died(self) -> str | None:
        """How the server ended by itself, with the end of its log; None while it runs."""
        if self._process is None or self._process.poll() is None:
            return None
        return f"The server of {self.gguf.name} ended with status {self._process.returncode}: {self._log_tail()}"

    def close(self) -> None:
        """Stop it. It holds nothing that could be lost, so it is not asked twice."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
            assert process.stdout is not None
            process.stdout.close()
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None

    def _start(self) -> None:
        options = {
            "--context": self.context,
            "--slots": self.slots,
            "--threads": self.threads or idle_threads(),
        }
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                _MODULE,
                str(self.gguf),
                *(str(part) for pair in options.items() for part in pair),
                *(["--program", str(self.program)] if self.program else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            env={name: value for name, value in child_environment().items() if name not in _NOT_PASSED_ON},
        )

    def _address(self) -> str:
        """The address that the process prints once the model is loaded."""
        assert self._process is not None
        assert self._process.stdout is not None
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        stdout = self._process.stdout

        def read() -> None:
            # llama.cpp may print to standard output too; its address is the only JSON.
            for line in stdout:
                if line.startswith(b'{"url"'):
                    lines.put(line)
                    return
            lines.put(b"")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            line = lines.get(timeout=self.deadline_s)
        except queue.Empty:
            if self.program is None:
                self._process.kill()  # the packaged one may not look up while it loads
            _end(self._process)  # which also ends the reader
            reader.join()
            raise ServiceFailed(
                f"{self.gguf.name} was not loaded after {self.deadline_s:.0f} s by {self._runtime()}. "
                f"{self._log_tail()}",
                next=f"Try again when the machine is less busy, or use a smaller model or quantization."
                f"{self._instead()}",
            ) from None
        reader.join()
        if not line:
            status = self._process.wait(KILL_AFTER_S)
            raise ServiceFailed(
                f"{self._runtime()} could not load {self.gguf.name} (exit status {status}): {self._log_tail()}",
                next="Check that the file is a whole GGUF model; export it again with export_gguf if it was cut off."
                f"{self._instead()}",
            )
        return str(json.loads(line)["url"]).rstrip("/")

    def _runtime(self) -> str:
        return str(self.program) if self.program else "llama.cpp"

    def _instead(self) -> str:
        if self.program is None:
            return ""
        return (
            f" To use the packaged llama.cpp instead of {self.program}, set {CHOICE_VARIABLE}=packaged, "
            f"or take that one out of {FOLDER_VARIABLE} or the PATH."
        )

    def _log_tail(self) -> str:
        if self._log_file is None:
            return "(no log)"
        size = self._log_file.seek(0, os.SEEK_END)
        self._log_file.seek(max(0, size - LOG_TAIL_BYTES))
        lines = self._log_file.read().decode("utf-8", "replace").splitlines()
        return " | ".join(line.strip() for line in lines[-5:] if line.strip()) or "(the log is empty)"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server, and wait until it has."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def can_serve() -> bool:
    """Whether there is anything here that serves a GGUF: a llama-server of the user's, or the packaged one."""
    return find_own(_PROGRAM) is not None or find_spec(_PACKAGE) is not None


def idle_threads() -> int:
    """Threads for llama.cpp: the cores that are idle now, but one, and at least one.

    Its threads wait for each other by spinning. On a core that something else is using, they hold up all the others:
    measured here, two threads on two busy cores gave 1 token/s where one thread gave 70.
    """
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    if cores <= 2:
        return 1
    busy = psutil.cpu_percent(interval=0.1) / 100
    return max(1, min(cores - 1, round(cores * (1 - busy))))


def child_environment() -> dict[str, str]:
    """A child finds this package where this process found it, installed or not; it is given no keys."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith(("_KEY", "_TOKEN"))}
    return {**kept, "PYTHONPATH": path}
