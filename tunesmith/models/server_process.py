"""A GGUF served by a llama.cpp server: `python -m tunesmith.models.server_process GGUF OPTIONS…`.

The packaged server runs in this process; with --program, that `llama-server` runs
as its child. Either listens on a free loopback port, and one JSON line with its
address is printed. It ends when standard input ends, which the kernel sees to
even when the owner is killed; llama.cpp's log goes to standard error.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_POLL_S = 0.05
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


def main() -> None:
    """Serve until standard input ends."""
    options = _arguments()
    if options.program is not None:
        _run_program(options)
        return
    # Started first: an owner that dies while the model loads must not leave this process behind.
    threading.Thread(target=_end_with_owner, daemon=True).start()
    import xllamacpp  # compiled, without types

    server = xllamacpp.Server(_parameters(xllamacpp, options))  # pyright: ignore[reportAttributeAccessIssue]
    print(json.dumps({"url": server.listening_address}), flush=True)
    while True:
        time.sleep(3600)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--context", type=int, required=True, help="tokens of each slot")
    parser.add_argument("--slots", type=int, required=True, help="requests answered at once")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--program", type=Path, help="a llama-server to run instead of the packaged one")
    return parser.parse_args()


def _parameters(xllamacpp: Any, options: argparse.Namespace) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(options.gguf)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.context * options.slots
    parameters.use_jinja = True
    parameters.warmup = False
    parameters.ui = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    return parameters


def _run_program(options: argparse.Namespace) -> None:
    """Run the user's llama-server, with the options that all its versions of the last years know."""
    port = _free_port()
    command = [
        str(options.program), "-m", str(options.gguf), "--host", "127.0.0.1", "--port", str(port),
        "-c", str(options.context * options.slots), "-np", str(options.slots), "-t", str(options.threads),
    ]  # fmt: skip
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # where this process prints, only its address is
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # there are no threads yet
    )
    threading.Thread(target=_end_with_owner, args=(child,), daemon=True).start()
    url = f"http://127.0.0.1:{port}"
    while child.poll() is None and not _is_ready(url):
        time.sleep(_POLL_S)
    if child.poll() is None:
        print(json.dumps({"url": url}), flush=True)
    sys.exit(child.wait())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_ready(url: str) -> bool:
    """Whether the model is loaded: until then /health answers 503, or nobody does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _die_with_parent() -> None:
    """In the child, before it becomes llama-server: the kernel kills it when this process is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def _end_with_owner(child: subprocess.Popen[bytes] | None = None) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    if child is not None:
        child.kill()
        child.wait()
    # Not sys.exit: this is not the main thread, and llama.cpp's own threads must not be waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
