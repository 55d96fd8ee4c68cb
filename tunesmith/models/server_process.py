"""A GGUF served by the packaged llama.cpp server: `python -m tunesmith.models.server_process GGUF OPTIONS…`.

It listens on a free loopback port and prints one JSON line with its address. It
ends when its standard input ends, which the kernel sees to even when the owner is
killed; llama.cpp's log goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    options = _arguments()
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


def _end_with_owner() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    # Not sys.exit: this is not the main thread, and llama.cpp's own threads must not be waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
