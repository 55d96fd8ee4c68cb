"""A `llama-server` of the user's, played by the packaged one: it takes the options of that program, and no others.

`install(folder)` writes the program; it notes its command line in `llama-server.log` beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

LOG = "llama-server.log"


def install(folder: Path, *, broken: str | None = None) -> Path:
    """Put `llama-server` into a folder; a broken one says that and ends."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "llama-server"
    run = f'exec {sys.executable} {Path(__file__)} {folder / LOG} "$@"'
    program.write_text(f"#!/bin/sh\n{f'echo {broken!r} >&2; exit 1' if broken else run}\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def main() -> None:
    log, arguments = Path(sys.argv[1]), sys.argv[2:]
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-c", "--ctx-size", type=int, default=0)
    parser.add_argument("-np", "--parallel", type=int, default=-1)
    parser.add_argument("-t", "--threads", type=int, default=-1)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args(arguments)
    log.write_text(json.dumps(vars(options)), encoding="utf-8")
    import xllamacpp

    print("main: the log of the user's own", flush=True)  # to standard output, as some versions do
    parameters = xllamacpp.CommonParams()
    parameters.model.path = options.model
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_parallel = options.parallel
    parameters.n_ctx = options.ctx_size
    parameters.warmup = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    _server = xllamacpp.Server(parameters)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
