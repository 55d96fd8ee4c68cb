"""A worker that does what its arguments say. Run as: python fake_worker.py RUN_DIR."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from tunesmith.errors import BadInput
from tunesmith.work import Work, run_worker


def act(work: Work) -> dict[str, object]:
    args = work.args
    if args.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if args.get("child"):
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        # With the run's lock, and out of reach of a signal to the worker's group.
        child = subprocess.Popen(command, close_fds=False, start_new_session=args["child"] == "in its own session")
        (work.run_dir / "child.pid").write_text(str(child.pid))
    (work.run_dir / "began").touch()
    steps = args.get("steps", 1)
    for step in range(steps):
        print(f"step {step + 1}", flush=True)
        work.progress("counting", step=step + 1, total_steps=steps)
        work.metric({"step": step + 1, "loss": 1.0})
        work.check_cancelled()
        if step + 1 == args.get("pause_at", steps):
            wait_for(args.get("until"), work, heed_stop=not args.get("ignore_term"))
    if args.get("fail"):
        raise BadInput("It was asked to fail.", next="Ask for something else.")
    if args.get("eat_memory"):
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        return {"eaten": len(bytearray(2**32))}
    if args.get("fill"):
        fill(work.run_dir / args["fill"])
    return {"counted": steps}


def wait_for(gate: str | None, work: Work, *, heed_stop: bool) -> None:
    while gate and not Path(gate).exists():
        if heed_stop:
            work.check_cancelled()
        time.sleep(0.02)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


run_worker({"score": act, "train": act})
