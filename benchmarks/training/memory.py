"""Predicted against measured peak memory: a table of short trainings, from which the memory model is checked.

    python benchmarks/training/memory.py --budget-s 500 --parallel 3 --out points.jsonl
    python benchmarks/training/memory.py --dry-run

Each point is a training of a few steps by tunesmith's worker, alone, on rows that are all cut to max_length, so that
every pass is as large as the plan says. Points that --out holds already are not measured again. Several run at once:
what a process reserves does not depend on the others.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import setting
from runs import alone, workspace_with_rows

STEPS = 4


def point(
    model: str, engine: str, method: str, batch: int, length: int, packing: int, recompute: int, **more: Any
) -> dict[str, Any]:
    recipe = {
        "engine": engine,
        "method": method,
        "batch_size": batch,
        "gradient_accumulation": 1,
        "max_length": length,
        "packing": bool(packing),
        "gradient_checkpointing": "on" if recompute else "off",
        **more,
    }
    name = f"{model} {engine} {method} {batch}x{length}{' packed' * packing}{' recompute' * recompute}"
    return {"name": name + "".join(f" {key}={value}" for key, value in more.items()), "model": model, "recipe": recipe}


U, T = "unsloth", "transformers"
POINTS = [
    # The most telling first: each new one differs in more than one respect from the ones before.
    point("0.5B", U, "lora", 8, 1024, 1, 0),
    point("0.5B", T, "lora", 4, 1024, 0, 0),
    point("3B", U, "qlora", 4, 1024, 0, 1),
    point("3B", T, "qlora", 2, 1024, 0, 1),
    point("0.5B", U, "qlora", 2, 512, 0, 1),
    point("0.5B", T, "qlora", 8, 512, 0, 1),
    point("3B", U, "lora", 2, 2048, 1, 0),
    point("3B", T, "lora", 2, 512, 0, 0),
    point("7B", U, "qlora", 2, 1024, 0, 1),
    point("7B", T, "qlora", 2, 512, 0, 1),
    point("0.5B", U, "lora", 16, 2048, 1, 1),
    point("0.5B", T, "lora", 2, 2048, 0, 1),
    point("3B", U, "qlora", 2, 2048, 1, 0),
    point("3B", T, "qlora", 1, 2048, 0, 0),
    point("7B", U, "lora", 1, 2048, 1, 1),
    point("7B", T, "lora", 1, 1024, 0, 1),
    point("0.5B", U, "lora", 4, 512, 0, 0, rank=64),
    point("0.5B", T, "lora", 1, 512, 0, 0, optimizer="adamw_torch"),
    point("0.5B", T, "lora", 2, 1024, 0, 0, dropout=0.05),
    point("0.5B", U, "lora", 2, 1024, 0, 0, dropout=0.05),
    point("3B", U, "lora", 8, 1024, 1, 1, rank=64),
    point("7B", U, "qlora", 4, 2048, 1, 0),
    point("3B", T, "lora", 2, 1024, 1, 1),
    point("7B", T, "qlora", 1, 1024, 0, 0),
    point("0.5B", U, "full", 4, 1024, 1, 1),
    point("0.5B", T, "full", 2, 1024, 0, 1),
]
DRY = [
    point("tiny", T, "lora", 2, 256, 0, 0),
    point("tiny", T, "lora", 2, 256, 1, 1),
    point("tiny", T, "lora", 4, 128, 0, 1),
]


def measure(entry: dict[str, Any], workspace: Any, dataset_id: str, base: Path, limit_s: float) -> dict[str, Any]:
    recipe = {**entry["recipe"], "max_steps": STEPS, "eval_steps": STEPS, "save_steps": STEPS}
    recipe |= {"prompt_format": "alpaca", "on_out_of_memory": "fail"}
    began = time.monotonic()
    try:
        run = alone(workspace, dataset_id, base, recipe, limit_s)
    except Exception as error:  # noqa: BLE001 - a point that cannot be planned is reported, the next is measured
        return {**entry, "state": "failed", "why": f"{type(error).__name__}: {str(error)[:400]}"}
    content = run["result"] or {}
    line = {**entry, "config": setting.SHAPES[entry["model"]], "wall_s": round(time.monotonic() - began, 1)}
    line |= {"predicted": run["plan"]["memory"]["predicted_peak_gib"], "breakdown": run["plan"]["memory"]["breakdown"]}
    line |= {"resolved": run["plan"]["recipe"], "memory": run["memory"]}
    if "result" not in content:
        return {**line, "state": "failed", "why": content.get("error"), "exit": run["exit"], "log": run["log"][-15:]}
    result = content["result"]
    measured = result["peak_gpu_gib"]
    line |= {
        "state": "succeeded",
        "measured": measured,
        "engine": result["engine"],
        "fallback": result["engine_fallback"],
    }
    line["ratio"] = round(line["predicted"] / measured, 3) if measured else None
    return line


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--budget-s", type=float, default=1e9)
    parser.add_argument("--point-s", type=float, default=150, help="a point that takes longer is stopped")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--models", default="0.5B,3B,7B")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    ends = time.monotonic() + options.budget_s
    scratch = (options.scratch or setting.big_scratch()).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = setting.tokenizer_folder(options.tokenizer, scratch).resolve()
    out = options.out or (
        Path(os.environ["OUT"]) / "memory.jsonl" if os.environ.get("OUT") else scratch / "memory.jsonl"
    )
    lines = [json.loads(text) for text in out.read_text().splitlines()] if out.is_file() else []
    done = {line["name"] for line in lines if line["state"] == "succeeded"}
    points = DRY if options.dry_run else [p for p in POINTS if p["model"] in options.models.split(",")]
    points = [entry for entry in points if entry["name"] not in done]
    bases = {name: setting.model_folder(name, scratch, tokenizer) for name in dict.fromkeys(p["model"] for p in points)}
    workspace, dataset_id = workspace_with_rows(scratch, "long", setting.long_rows())
    waiting: Queue[dict[str, Any]] = Queue()
    for entry in points:
        waiting.put(entry)
    writing = threading.Lock()

    def work() -> None:
        while time.monotonic() + 40 < ends:
            try:
                entry = waiting.get_nowait()
            except Empty:
                return
            limit_s = min(options.point_s, ends - time.monotonic())
            line = measure(entry, workspace, dataset_id, bases[entry["model"]], limit_s)
            with writing:
                lines.append(line)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                why = (
                    "" if line["state"] == "succeeded" else f"{line.get('why')} {' | '.join(line.get('log', [])[-4:])}"
                )
                print(line["name"], line["state"], line.get("predicted"), line.get("measured"), why[:600], flush=True)

    workers = [threading.Thread(target=work) for _ in range(options.parallel)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(f"\npredicted  measured  ratio  point ({waiting.qsize()} not measured)")
    for line in lines:
        if line["state"] == "succeeded":
            print(f"{line['predicted']:>9}  {line['measured'] or '-':>8}  {line['ratio'] or '-':>5}  {line['name']}")


if __name__ == "__main__":
    main()
