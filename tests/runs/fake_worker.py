"""A worker that does what its arguments say. Run as: python fake_worker.py RUN_DIR."""

from __future__ import annotations

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
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
        (work.run_dir / "child.pid").write_text(str(child.pid))
    (work.run_dir / "began").touch()
    for step in range(args.get("steps", 1)):
        print(f"step {step + 1}", flush=True)
        work.progress("counting", step=step + 1, total_steps=args.get("steps", 1))
        work.check_cancelled()
        gate = args.get("until")
        while gate and not Path(gate).exists():
            work.check_cancelled()
            time.sleep(0.02)
    if args.get("fail"):
        raise BadInput("It was asked to fail.", next="Ask for something else.")
    return {"counted": args.get("steps", 1)}


run_worker({"score": act, "train": act})
