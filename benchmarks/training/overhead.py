"""What tunesmith's worker costs: the same engine, model, rows and steps in a bare loop, and through the worker.

    python benchmarks/training/overhead.py --engines transformers,unsloth --rounds 2
    python benchmarks/training/overhead.py --dry-run

The bare loop takes the engine's model, batches, loss and optimizer, and does nothing else: no log, no checkpoint, no
held-out loss, no trainer around it; it waits for the card at both ends. The worker runs as `start_training` would run
it. Speeds are of the steps after WARM; the worker's is over its measured stretches, which are all but the pauses in
which it looks at the held-out rows and saves (those are in `total`). The two take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import setting
from runs import launch, left_by, prepare, steady_speed, workspace_with_rows
from setting import HERE, environment

WARM = 20
MODEL = "0.5B"


def bare(folder: Path, out: Path) -> None:
    """Train a run's plan in this process. Writes {steady_tokens_per_s, training_s, started_s} to `out`."""
    began = time.monotonic()
    from tunesmith.training.material import read_material
    from tunesmith.training.process import usable_cores
    from tunesmith.training.recipe import Recipe
    from tunesmith.training.worker import Training
    from tunesmith.work import Work

    work = Work(folder)
    recipe = Recipe.model_validate(work.args["recipe"])
    material = read_material(work, recipe, None)
    training = Training(work)
    training._prepare_process()
    training._choose_engine()
    import torch
    from transformers import TrainerCallback

    from tunesmith.training.engines.sft import build_trainer
    from tunesmith.training.passes import Passes

    torch.set_num_threads(usable_cores())
    cuda = torch.cuda.is_available()
    loaded = training.load(material.base, recipe, None)
    trainer = build_trainer(
        loaded,
        recipe,
        train=material.train,
        held_out=material.held_out[:1],
        steps=material.steps,
        root=folder / "bare",
        callback=TrainerCallback(),
        passes=Passes(),
        on_less=lambda *_: None,
    )
    model, steps = trainer.model, material.steps
    if recipe.gradient_checkpointing == "on":
        model.gradient_checkpointing_enable()
    trainer.create_optimizer_and_scheduler(steps)
    batches = trainer.get_train_dataloader()
    model, optimizer = trainer.accelerator.prepare(model, trainer.optimizer)
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    since = 0.0
    step = 0
    started_s = time.monotonic() - began
    training_began = time.perf_counter()
    while step < steps:
        for inputs in batches:
            batch = trainer._prepare_inputs(inputs)
            count = (batch["labels"][:, 1:] != -100).sum()
            loss = trainer.compute_loss(model, batch, num_items_in_batch=count)
            trainer.accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
            optimizer.step()
            trainer.lr_scheduler.step()
            optimizer.zero_grad()
            step += 1
            if step in (WARM, steps):
                if cuda:
                    torch.cuda.synchronize()
                if step == WARM:
                    trainer.take_real_tokens()
                    since = time.perf_counter()
            if step == steps:
                break
    ended = time.perf_counter()
    found = {
        "steady_tokens_per_s": round(trainer.take_real_tokens() / (ended - since), 1),
        "training_s": round(ended - training_began, 2),
        "started_s": round(started_s, 1),
        "loss": round(float(loss), 4),
    }
    if cuda:
        found["peak_gpu_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 3)
    out.write_text(json.dumps(found))


def timed(process: subprocess.Popen[bytes], limit_s: float) -> float:
    began = time.monotonic()
    try:
        process.wait(timeout=max(1.0, limit_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return time.monotonic() - began


def one(kind: str, folder: Path, scratch: Path, limit_s: float) -> dict[str, Any]:
    if kind == "worker":
        wall = timed(launch([folder]), limit_s)
        run = left_by(folder)
        content = (run["result"] or {}).get("result")
        if content is None:
            return {"state": "failed", "why": (run["result"] or {}).get("error"), "log": run["log"][-12:]}
        found = {"steady_tokens_per_s": steady_speed(folder, WARM), "peak_gpu_gib": content["peak_gpu_gib"]}
        return {"state": "succeeded", "wall_s": round(wall, 1), **found, "duration_s": content["duration_s"]}
    out, log = scratch / f"{folder.name}.bare", scratch / f"{folder.name}.bare.log"
    command = [sys.executable, str(HERE / "overhead.py"), "--bare", str(folder), "--out", str(out)]
    with log.open("wb") as file:
        wall = timed(subprocess.Popen(command, stdout=file, stderr=file, env=environment()), limit_s)
    if not out.is_file():
        return {"state": "failed", "log": log.read_text(errors="replace").splitlines()[-12:]}
    return {"state": "succeeded", "wall_s": round(wall, 1), **json.loads(out.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--engines", default="transformers,unsloth")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--batch", type=int, default=1, help="packed sequences of 2,048 tokens in a pass")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget-s", type=float, default=1e9)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--bare", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare is not None:
        bare(options.bare, options.out)
        return
    ends = time.monotonic() + options.budget_s
    scratch = (options.scratch or setting.big_scratch()).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = setting.tokenizer_folder(options.tokenizer, scratch).resolve()
    rows = setting.workload(scratch, tokenizer)
    workspace, dataset_id = workspace_with_rows(scratch, f"workload-{setting.ROWS}", rows)
    name = "tiny" if options.dry_run else options.model
    base = setting.model_folder(name, scratch, tokenizer)
    steps = 40 if options.dry_run else options.steps
    recipe = {"method": options.method, "packing": True, "max_length": 2048, "batch_size": options.batch}
    recipe |= {"gradient_accumulation": 1, "gradient_checkpointing": "off", "prompt_format": "alpaca"}
    recipe |= {"max_steps": steps, "eval_steps": max(1, steps // 2), "save_steps": max(1, steps // 2)}
    if options.dry_run:
        recipe |= {"max_length": 512}
    lines: list[dict[str, Any]] = []
    for engine in ["transformers"] if options.dry_run else options.engines.split(","):
        for number in range(options.rounds):
            for kind in ("bare", "worker"):
                folder = prepare(workspace, dataset_id, base, {**recipe, "engine": engine})
                found = one(kind, folder, scratch, min(240.0, ends - time.monotonic()))
                lines.append({"engine": engine, "round": number, "kind": kind, "model": name, "steps": steps, **found})
                print(json.dumps(lines[-1])[:1200], flush=True)
                if time.monotonic() + 30 > ends:
                    break
        lines.append(compared(engine, lines))
        print(json.dumps(lines[-1]), flush=True)
    out = options.out or (Path(os.environ["OUT"]) / "overhead.jsonl" if os.environ.get("OUT") else None)
    if out is not None:
        out.write_text("".join(json.dumps(line) + "\n" for line in lines))


def compared(engine: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds; what the worker adds to a step, and to a whole run besides."""

    def median(kind: str, figure: str) -> float | None:
        found = [
            line[figure] for line in lines if line["engine"] == engine and line.get("kind") == kind and figure in line
        ]
        return statistics.median(found) if found else None

    bare_speed, speed = median("bare", "steady_tokens_per_s"), median("worker", "steady_tokens_per_s")
    bare_wall, wall = median("bare", "wall_s"), median("worker", "wall_s")
    if not bare_speed or not speed or bare_wall is None or wall is None:
        return {"engine": engine, "summary": "incomplete"}
    return {
        "engine": engine,
        "summary": "overhead",
        "step_percent": round(100 * (bare_speed / speed - 1), 2),
        "whole_run_extra_s": round(wall - bare_wall, 1),
        "whole_run_percent": round(100 * (wall / bare_wall - 1), 1),
    }


if __name__ == "__main__":
    main()
