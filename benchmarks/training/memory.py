"""Predicted against measured peak memory: a table of short trainings, from which the memory model is checked.

    python benchmarks/training/memory.py --budget-s 500 --parallel 3 --out points.jsonl
    python benchmarks/training/memory.py --dry-run

Each point is a training of a few steps by tunesmith's worker, alone, on rows that are all cut to max_length, so that
every pass is as large as the plan says. Points that --out holds already are not measured again. One process measures
many points of one engine after one import: before each everything is freed and the peaks are reset, and where that
leaves more than 0.15 GiB behind a new process goes on. The points of CHECKS are measured a second time, each in a
process of its own, which says what the sharing costs. Several processes run at once: what one reserves does not depend
on the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import setting
from runs import left_by, prepare, several, workspace_with_rows

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
# The most telling first: each new one differs in more than one respect from the ones before.
POINTS = [
    point("7B", U, "lora", 1, 2048, 1, 0),
    point("7B", T, "lora", 1, 2048, 1, 0),
    point("7B", U, "qlora", 1, 2048, 1, 1),
    point("7B", T, "qlora", 1, 2048, 1, 1),
    point("0.5B", U, "lora", 8, 1024, 1, 0),
    point("0.5B", T, "lora", 4, 1024, 0, 0),
    point("3B", U, "qlora", 4, 1024, 0, 1),
    point("3B", T, "qlora", 2, 1024, 0, 1),
    point("3B", U, "lora", 2, 2048, 1, 0),
    point("3B", T, "lora", 2, 2048, 1, 0),
    point("0.5B", U, "qlora", 2, 512, 0, 1),
    point("0.5B", T, "qlora", 8, 512, 0, 1),
    point("0.5B", T, "full", 4, 1024, 0, 1),
    point("0.5B", T, "full", 8, 1024, 0, 0),
    point("7B", U, "qlora", 2, 1024, 0, 1),
    point("7B", T, "qlora", 2, 512, 0, 1),
    point("3B", U, "qlora", 2, 2048, 1, 0),
    point("3B", T, "lora", 2, 512, 0, 0),
    point("0.5B", U, "lora", 16, 2048, 1, 1),
    point("0.5B", T, "lora", 4, 2048, 1, 0),
    point("7B", U, "lora", 1, 2048, 1, 1),
    point("7B", T, "lora", 1, 1024, 0, 1),
    point("0.5B", U, "lora", 4, 512, 0, 0, rank=64),
    point("0.5B", T, "lora", 1, 512, 0, 0, optimizer="adamw_torch"),
    point("0.5B", U, "lora", 2, 1024, 0, 0, dropout=0.05),
    point("0.5B", T, "lora", 2, 1024, 0, 0, dropout=0.05),
    point("3B", U, "lora", 8, 1024, 1, 1, rank=64),
    point("3B", T, "qlora", 1, 2048, 0, 0),
    point("7B", U, "qlora", 2, 2048, 1, 0),
    point("7B", T, "qlora", 1, 1024, 0, 0),
    point("1.5B", T, "full", 2, 1024, 0, 1),
    point("0.5B", T, "full", 4, 1024, 0, 0, gradient_accumulation=2),
    point("0.5B", T, "full", 4, 1024, 0, 0, optimizer="adamw_torch"),
    point("0.5B", T, "full", 4, 1024, 1, 0),
    point("0.5B", T, "full", 8, 1024, 0, 1, gradient_accumulation=2),
]
# Blocks compiled as in a long run.
COMPILED = [
    {**point(*values), "name": f"{point(*values)['name']} compiled", "compiled": True}
    for values in (
        ("0.5B", T, "lora", 4, 2048, 1, 0),  # small first: the other lists begin with large ones
        ("7B", T, "qlora", 1, 2048, 1, 1),
        ("3B", T, "lora", 2, 2048, 1, 0),
        ("7B", T, "lora", 1, 2048, 1, 0),
        ("3B", T, "qlora", 1, 2048, 1, 0),
        ("0.5B", T, "full", 4, 1024, 1, 1),
    )
]
CHECKS = [POINTS[4], POINTS[7]]  # one of each engine
DRY = [
    point("tiny", T, "lora", 2, 256, 0, 0),
    point("tiny", T, "lora", 2, 256, 1, 1),
    point("tiny", T, "lora", 4, 128, 0, 1),
]


def lanes(points: list[dict[str, Any]], count: int) -> list[list[dict[str, Any]]]:
    """The points in about `count` lists of one engine each; those whose blocks are compiled are a list of their own."""
    compiled = [entry for entry in points if entry.get("compiled")]
    plain = [entry for entry in points if not entry.get("compiled")]
    of = {engine: [entry for entry in plain if entry["recipe"]["engine"] == engine] for engine in (U, T)}
    ours = max(1, (count - 1) // 2)
    theirs = max(1, count - ours - bool(compiled))
    found = [of[U][part::ours] for part in range(ours)] + [of[T][part::theirs] for part in range(theirs)]
    return [lane for lane in [*found, compiled] if lane]


def start(entry: dict[str, Any], workspace: Any, dataset_id: str, base: Path) -> Path:
    recipe = {**entry["recipe"], "max_steps": STEPS, "eval_steps": STEPS, "save_steps": STEPS}
    recipe |= {"prompt_format": "alpaca", "on_out_of_memory": "fail"}
    return prepare(workspace, dataset_id, base, recipe, compiled=entry.get("compiled", False))


def measured(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    run = left_by(folder)
    content = run["result"] or {}
    line = {**entry, "config": setting.SHAPES[entry["model"]]}
    line |= {"predicted": run["plan"]["memory"]["predicted_peak_gib"], "breakdown": run["plan"]["memory"]["breakdown"]}
    line |= {"resolved": run["plan"]["recipe"], "memory": run["memory"]}
    if "result" not in content:
        return {**line, "state": "failed", "why": content.get("error"), "log": run["log"][-15:]}
    result = content["result"]
    peak = result["peak_gpu_gib"]
    line |= {"state": "succeeded", "measured": peak, "engine": result["engine"], "fallback": result["engine_fallback"]}
    line["left_before"] = ((run["memory"] or {}).get("before_load") or {}).get("reserved", 0.0)
    line["ratio"] = round(line["predicted"] / peak, 3) if peak else None
    return line


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--budget-s", type=float, default=1e9)
    parser.add_argument("--point-s", type=float, default=90, help="a point that takes longer is stopped")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--models", default="0.5B,1.5B,3B,7B")
    parser.add_argument("--engines", default=f"{U},{T}")
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
    wanted = (options.models.split(","), options.engines.split(","))
    points = [p for p in [*POINTS, *COMPILED] if p["model"] in wanted[0] and p["recipe"]["engine"] in wanted[1]]
    checks = [{**p, "name": f"{p['name']}, a process of its own"} for p in CHECKS if p in points]
    if options.dry_run:
        points, checks = DRY, [{**DRY[0], "name": f"{DRY[0]['name']}, a process of its own"}]
    points, checks = ([entry for entry in found if entry["name"] not in done] for found in (points, checks))
    bases = {name: setting.model_folder(name, scratch, tokenizer) for name in dict.fromkeys(p["model"] for p in points)}
    workspace, dataset_id = workspace_with_rows(scratch, "long", setting.long_rows())
    folders: dict[str, Path] = {}

    def add(line: dict[str, Any]) -> None:
        lines.append(line)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        why = "" if line["state"] == "succeeded" else f"{line.get('why')} {' | '.join(line.get('log', [])[-4:])}"
        figures = [line.get(key) for key in ("predicted", "measured", "ratio", "left_before")]
        print(line["name"], line["state"], *figures, why[:600], flush=True)

    for entry in [*points, *checks]:
        try:
            folders[entry["name"]] = start(entry, workspace, dataset_id, bases[entry["model"]])
        except Exception as error:  # noqa: BLE001 - a point that cannot be planned is reported, the next is measured
            add({**entry, "state": "failed", "why": f"{type(error).__name__}: {str(error)[:400]}"})
    print(f"{len(folders)} runs planned", flush=True)

    def lane(entries: list[dict[str, Any]]) -> None:
        with places:
            measure(entries)

    def measure(entries: list[dict[str, Any]]) -> None:
        variables = {"WORTH_COMPILING": "1"} if entries[0].get("compiled") else {}
        several([folders[entry["name"]] for entry in entries], options.point_s, ends, **variables)
        for check in [check for check in checks if check["recipe"]["engine"] == entries[0]["recipe"]["engine"]]:
            with taking:
                if check["name"] in taken or check["name"] not in folders:
                    continue
                taken.add(check["name"])
            several([folders[check["name"]]], options.point_s, ends)

    places = threading.Semaphore(options.parallel)
    taken: set[str] = set()
    taking = threading.Lock()
    possible = [entry for entry in points if entry["name"] in folders]
    threads = [threading.Thread(target=lane, args=(entries,)) for entries in lanes(possible, options.parallel)]
    for thread in threads:
        thread.start()
    waiting = [entry for entry in [*points, *checks] if entry["name"] in folders]
    while waiting:
        running = any(thread.is_alive() for thread in threads)
        for entry in list(waiting):
            folder = folders[entry["name"]]
            # A process of its own leaves no mark when it is done, but a result.
            if not running or (folder / "done").is_file() or (entry in checks and (folder / "result.json").is_file()):
                waiting.remove(entry)
                add(measured(entry, folder))
                # Of a model trained in full both hold gigabytes.
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                for model in (workspace.root / "models").iterdir():
                    if time.time() - model.stat().st_mtime > 60:
                        shutil.rmtree(model, ignore_errors=True)
        time.sleep(0.5)
    summary(lines)


def summary(lines: list[dict[str, Any]]) -> None:
    print("\npredicted  measured  ratio  left before  point")
    good = [line for line in lines if line["state"] == "succeeded"]
    for line in good:
        figures = f"{line['predicted']:>9}  {line['measured'] or '-':>8}  {line['ratio'] or '-':>5}"
        print(f"{figures}  {line.get('left_before', 0):>11}  {line['name']}")
    ratios = [line["ratio"] for line in good if line["ratio"]]
    if ratios:
        near = sum(abs(ratio - 1) <= 0.1 for ratio in ratios)
        print(f"{near} of {len(ratios)} within 10 %; ratios from {min(ratios)} to {max(ratios)}")
    by_name = {line["name"]: line for line in good}
    for line in good:
        shared = by_name.get(line["name"].removesuffix(", a process of its own"))
        if shared is not line and shared is not None:
            print(f"{line['name']}: {line['measured']}, among others {shared['measured']}")


if __name__ == "__main__":
    main()
