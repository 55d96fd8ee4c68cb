"""Training workers one after the other, each forked from a process that has the libraries already.

`python warm_workers.py '[[RUN_DIR, {VARIABLE: VALUE}], …]'`: what `python -m tunesmith.training.worker RUN_DIR` does,
without the seconds that importing takes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    from tunesmith.training import worker
    from tunesmith.training.engines import sft, transformers_engine, watch  # noqa: F401
    from tunesmith.work import run_worker

    for run_dir, variables in json.loads(sys.argv[1]):
        child = os.fork()
        if child == 0:
            log = os.open(Path(run_dir) / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(variables)
            sys.argv = ["worker", run_dir]
            run_worker({"train": worker.train})
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
