"""Real tokens a second and peak memory of tunesmith, through its server, beside three other ways.

    python benchmarks/training/throughput.py --out results.jsonl
    python benchmarks/training/throughput.py --only 7B-seed,7B-planner --budget-s 400
    python benchmarks/training/throughput.py --dry-run          # a tiny model on the CPU, to see that it works

Models of the shapes of Qwen2.5 7B, 3B and 0.5B with random weights, and the workload of setting.py. One JSON line a
case. What the time budget leaves no room for is left out and said; a case that fails is reported and the next begins.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import setting
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from runs import alone, steady_speed, through_server, workspace_with_rows
from setting import HERE, environment

FIXED = {"prompt_format": "alpaca", "rank": 16, "alpha": 32, "learning_rate": 2e-4}
PACKED = {"packing": True, "max_length": 2048, "gradient_accumulation": 1}
WHOLE = {**PACKED, "method": "lora", "gradient_checkpointing": "off"}
CAPPED = {**PACKED, "method": "qlora", "gradient_checkpointing": "on", "batch_size": 1, "memory_budget_gib": 8.0}


def case(name: str, kind: str, steps: int, seconds: int, **recipe: Any) -> dict[str, Any]:
    """`seconds` is what it may take; twice that and it is stopped."""
    return {
        "name": name,
        "kind": kind,
        "model": name.split("-", 1)[0],
        "steps": steps,
        "seconds": seconds,
        "recipe": recipe,
    }


CASES = [
    # Beside the tutorial's script: two ways of others, and ours as `start_training` begins it, nothing said about it.
    case("7B-seed", "seed", 24, 90),
    case("7B-planner", "server", 300, 140),  # long enough for blocks to be compiled, as a whole training's are
    case("7B-planner-cap8", "alone", 60, 100, memory_budget_gib=8.0),
    case("7B-unsloth-packing", "unsloth-packing", 14, 110),
    case("7B-trl", "trl", 16, 100),
    case("0.5B-seed", "seed", 60, 60),
    case("0.5B-planner", "server", 400, 70),
    case("3B-seed", "seed", 40, 70),
    case("3B-planner", "server", 300, 90),
    # What the planner chooses between.
    *(
        case(f"7B-{engine}-16bit-{batch}x2048", "alone", 120 // batch, 80, **WHOLE, batch_size=batch, engine=engine)
        for engine in ("unsloth", "transformers")
        for batch in (1, 2)
    ),
    *(
        case(f"7B-{engine}-cap8-1x2048", "alone", 40, 80, **CAPPED, engine=engine)
        for engine in ("unsloth", "transformers")
    ),
    # With --profile: where the time goes. Their speeds do not count.
    *(
        case(f"7B-{engine}-prof-16bit-1x2048", "alone", 24, 90, **WHOLE, batch_size=1, engine=engine)
        for engine in ("unsloth", "transformers")
    ),
    *(
        case(f"7B-{engine}-prof-cap8-1x2048", "alone", 24, 90, **CAPPED, engine=engine)
        for engine in ("unsloth", "transformers")
    ),
]
DRY = [
    case("tiny-trl", "trl", 8, 100),
    case("tiny-server", "server", 12, 100, batch_size=2),
    case("tiny-alone", "alone", 14, 100, packing=True, max_length=512, batch_size=2, gradient_accumulation=1),
    case("tiny-planner", "server", 6, 100),
]


def peer(entry: dict[str, Any], base: Path, rows: Path, scratch: Path, *, dry: bool) -> dict[str, Any]:
    out, log = scratch / f"{entry['name']}.json", scratch / f"{entry['name']}.log"
    out.unlink(missing_ok=True)
    variables = {"UNSLOTH_COMPILE_LOCATION": str(scratch / "unsloth_compiled_cache"), "DRY_RUN": "1" if dry else "0"}
    command = [
        sys.executable,
        str(HERE / "peers.py"),
        entry["kind"],
        str(base),
        str(rows),
        str(entry["steps"]),
        str(out),
    ]
    with log.open("wb") as file:
        try:
            subprocess.run(
                command,
                stdout=file,
                stderr=file,
                env={**environment(), **variables},
                timeout=2 * entry["seconds"],
                cwd=scratch,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{entry['name']}: stopped after {2 * entry['seconds']} s", flush=True)
    if out.is_file():
        return {"state": "succeeded", **json.loads(out.read_text())}
    return {"state": "failed", "log": log.read_text(errors="replace").splitlines()[-25:]}


def shown(entry: dict[str, Any], run: dict[str, Any], runs_folder: Path) -> dict[str, Any]:
    """What counts of a tunesmith run."""
    content = run.get("result") or {}
    result = content.get("result", content)
    plan = run.get("plan") or {}
    if "error" in content or not result.get("model_id"):
        return {
            "state": run.get("state", "failed"),
            "why": run.get("why") or run.get("error") or content.get("error"),
            "log": run.get("log") or run.get("log_tail"),
        }
    folder = runs_folder / run["run_id"]
    spec = json.loads((folder / "spec.json").read_text())["args"]
    plan = plan or spec["plan"]
    path = folder / "memory.json"
    profile = folder / "profile.txt"
    recipe = spec["recipe"]
    names = (
        "method",
        "engine",
        "batch_size",
        "gradient_accumulation",
        "max_length",
        "packing",
        "gradient_checkpointing",
    )
    return {
        "state": "succeeded",
        "steady_tokens_per_s": steady_speed(folder, max(5, entry["steps"] // 5)),
        "tokens_per_s": result["tokens_per_s"],
        "steps": result["steps"],
        "peak_gpu_gib": result["peak_gpu_gib"],
        "predicted_peak_gib": result["predicted_peak_gib"],
        "predicted": plan["memory"]["breakdown"],
        "memory": json.loads(path.read_text()) if path.is_file() else None,
        "duration_s": result["duration_s"],
        "engine": result["engine"],
        "fallback": result["engine_fallback"],
        "dtype": result["dtype"],
        "recoveries": result["recoveries"],
        "eval_loss": result["eval_loss"],
        "train_loss": result["train_loss"],
        "recipe": {name: recipe[name] for name in names},
        "profile": profile.read_text().splitlines()[0] if profile.is_file() else None,
    }


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--only", default="")
    parser.add_argument("--rows", type=int, default=setting.ROWS)
    parser.add_argument("--budget-s", type=float, default=1e9)
    parser.add_argument("--profile", default="", help="steps of the runs without a server to profile, as 12-16")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    ends = time.monotonic() + options.budget_s
    scratch = (options.scratch or setting.big_scratch()).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = setting.tokenizer_folder(options.tokenizer, scratch).resolve()
    rows = setting.workload(scratch, tokenizer, options.rows)
    results = [{"workload": setting.describe(rows, tokenizer), "versions": setting.versions()}]
    print(json.dumps(results[0]), flush=True)
    workspace, dataset_id = workspace_with_rows(scratch, f"workload-{options.rows}", rows)
    cases = DRY if options.dry_run else [entry for entry in CASES if options.profile or "-prof-" not in entry["name"]]
    if options.only:
        wanted = options.only.split(",")
        cases = [entry for name in wanted for entry in cases if entry["name"] == name]
        assert len(cases) == len(wanted), "no such case"
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tunesmith", "serve", "--workspace", str(workspace.root), "--allow-root", str(scratch)],
        env=environment(),
    )
    async with Client(server) as client:
        for entry in cases:
            began = time.monotonic()
            if began + entry["seconds"] > ends:
                results.append({"name": entry["name"], "state": "left out: no time"})
                print(json.dumps(results[-1]), flush=True)
                continue
            limit_s = min(2 * entry["seconds"], ends - began)
            try:
                base = setting.model_folder(entry["model"], scratch, tokenizer)
                steps = entry["steps"]
                recipe = {**FIXED, **entry["recipe"], "max_steps": steps, "eval_steps": steps, "save_steps": steps}
                if entry["kind"] == "server":
                    run = await through_server(client, dataset_id, base, recipe, limit_s)
                    found = shown(entry, run, workspace.runs)
                elif entry["kind"] == "alone":
                    variables = {"WORTH_COMPILING": "1"}  # a short run's speed is to be a long one's
                    variables |= {"PROFILE_STEPS": options.profile} if options.profile else {}
                    found = shown(
                        entry, alone(workspace, dataset_id, base, recipe, limit_s, **variables), workspace.runs
                    )
                else:
                    found = peer(entry, base, scratch / f"rows-{options.rows}.jsonl", scratch, dry=options.dry_run)
            except Exception as error:  # noqa: BLE001 - the next case may work
                found = {"state": "failed", "why": f"{type(error).__name__}: {str(error)[:600]}"}
            results.append({"name": entry["name"], "wall_s": round(time.monotonic() - began, 1), **found})
            print(json.dumps(results[-1], ensure_ascii=False), flush=True)
            _keep(options.out, results)
    print("\nreal tokens/s (steady)  peak GiB  predicted  case")
    for line in results[1:]:
        values = [line.get(key) for key in ("steady_tokens_per_s", "peak_gpu_gib", "predicted_peak_gib")]
        print("  ".join(f"{value if value is not None else '-':>9}" for value in values), line["name"], line["state"])


def _keep(out: Path | None, results: list[dict[str, Any]]) -> None:
    out = out or (Path(os.environ["OUT"]) / "throughput.jsonl" if os.environ.get("OUT") else None)
    if out is not None:
        with out.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in results)


if __name__ == "__main__":
    anyio.run(main)
