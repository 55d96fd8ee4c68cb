"""A worker that looks like training from outside. Run as: python training_double.py RUN_DIR.

Its arguments: `steps`; `pause_at`, a step after which it waits for the file `until`.
"""

from __future__ import annotations

import time
from pathlib import Path

from tunesmith.work import Work, run_worker

LONG = "校准每十四个月做一次,在二十度的水槽里等待二十五分钟之后才开始读数。"


def train(work: Work) -> dict[str, object]:
    steps, pause_at, gate = work.args["steps"], work.args.get("pause_at"), Path(work.args.get("until", "/nonexistent"))
    for step in range(1, steps + 1):
        loss = 3 / step
        print(f"\x1b[31mstep {step}/{steps}\x1b[0m  loss {loss:.4f}  {LONG}", flush=True)
        work.metric({"step": step, "loss": loss, "eval_loss": None, "tokens_per_s": 340.4})
        work.metric({"step": step, "loss": None, "eval_loss": loss, "tokens_per_s": None})
        work.progress(f"Step {step} of {steps}", step=step, total_steps=steps, eta_s=(steps - step) * 50.0)
        while step == pause_at and not gate.exists():
            work.check_cancelled()
            time.sleep(0.02)
    return {"model_id": "mdl_" + "b" * 12, "steps": steps, "eval_loss": {"before": 3.0, "after": 1.25, "best": 1.25}}


run_worker({"train": train})
