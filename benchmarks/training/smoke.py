"""First steps on a card: the probe of check_gpu, both engines, preference pairs, kill and resume, memory that runs out.

    python benchmarks/training/smoke.py [--dry-run] [--embedded] [--only resume,memory] [--engines transformers]

Prints one JSON line a check. Without --embedded the model is the 0.5B one with random weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import setting
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from runs import launch, left_by, prepare, through_server, workspace_with_rows
from setting import environment

KEPT = ("state", "error", "steps", "tokens_per_s", "peak_gpu_gib", "predicted_peak_gib", "eval_loss", "train_loss")
KEPT += ("engine", "engine_fallback", "dtype", "recoveries", "resumed_from", "duration_s")

# Nothing is left for the planner to step down: what does not fit must be noticed while training.
LADDER = {"gradient_accumulation": 1, "packing": False, "gradient_checkpointing": "off", "max_length": 2048}
LADDER |= {"eval_steps": 4, "save_steps": 4, "early_stopping_patience": 1000}
CAP_GIB = 6.0
UNEVEN_SEED = 3  # the long rows come in the middle of the epoch
TOLERANCE = 0.005  # of the held-out loss; 8-bit states and atomic additions are not exact


def brief(run: dict[str, Any]) -> dict[str, Any]:
    result = run.get("result") or {}
    result = result.get("result", result)
    line = {key: value for key, value in {**run, **result}.items() if key in KEPT}
    if not result.get("model_id"):
        line["log"] = (run.get("log_tail") or run.get("log") or run.get("why") or [])[-25:]
    return line


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--only", default="probe,engines,resume,memory")
    parser.add_argument("--engines", default="transformers,unsloth")
    parser.add_argument("--parallel", type=int, default=6)
    parser.add_argument("--budget-s", type=float, default=1e9)
    options = parser.parse_args()
    ends = time.monotonic() + options.budget_s
    scratch = (options.scratch or setting.big_scratch()).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = setting.tokenizer_folder(options.tokenizer, scratch).resolve()
    name = "tiny" if options.dry_run else "0.5B"
    base = "embedded" if options.embedded else str(setting.model_folder(name, scratch, tokenizer))
    rows = setting.workload(scratch, tokenizer, 120 if options.dry_run else 400)
    workspace, dataset_id = workspace_with_rows(scratch, f"smoke-{len(rows)}", rows)
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tunesmith", "serve", "--workspace", str(workspace.root), "--allow-root", str(scratch)],
        env=environment(),
    )

    def say(check: str, began: float, content: Any) -> None:
        line = {"check": check, "s": round(time.monotonic() - began, 1), **content}
        print(json.dumps(line, ensure_ascii=False, default=str)[:3500], flush=True)

    short = {"max_steps": 20, "eval_steps": 10, "save_steps": 10}
    async with Client(server) as client:
        began = time.monotonic()
        if "probe" in options.only:
            answer = await client.call_tool("check_gpu", {"probe": True})
            say("probe", began, {"report": answer.structured_content, "error": answer.is_error})
        if "engines" in options.only:
            for engine in ["transformers"] if options.dry_run else options.engines.split(","):
                for method in ["lora"] if options.dry_run else ["lora", "qlora"]:
                    began = time.monotonic()
                    recipe = {**short, "engine": engine, "method": method}
                    say(f"{engine} {method}", began, brief(await through_server(client, dataset_id, base, recipe, 120)))
        if "preference" in options.only:
            # The rejected answer of a row is the next one's.
            others = [row["output"] for row in rows[1:] + rows[:1]]
            pairs = [{**row, "rejected": other} for row, other in zip(rows, others, strict=True)]
            pairs_id = workspace_with_rows(scratch, f"pairs-{len(pairs)}", pairs)[1]
            for method in ["lora"] if options.dry_run else ["lora", "qlora"]:
                began = time.monotonic()
                recipe = {**short, "method": method}
                say(f"preference {method}", began, brief(await through_server(client, pairs_id, base, recipe, 120)))
    if {"resume", "memory"} & set(options.only.split(",")):
        engines = ["transformers"] if options.dry_run else options.engines.split(",")
        await anyio.to_thread.run_sync(
            hard_cases, workspace, Path(base), dataset_id, options.only.split(","), engines, options, ends
        )


def hard_cases(
    workspace: Any, base: Path, dataset_id: str, only: list[str], engines: list[str], options: Any, ends: float
) -> None:
    """Several at once, each in processes of its own. One line a case as it ends, one that counts them last."""
    scratch = workspace.root.parent
    uneven = workspace_with_rows(scratch, "uneven", uneven_rows())[1]
    card = {} if options.dry_run else {"optimizer": "adamw_8bit"}
    case = Case(workspace, base, ends, dry=options.dry_run)
    cases: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    for engine in engines:
        common = {**LADDER, **card, "engine": engine, "method": "lora", "batch_size": 16}
        if "memory" in only:
            capped = {**common, "memory_budget_gib": CAP_GIB}
            first = partial(
                case.recovers, dataset_id, {**capped, "batch_size": 32, "max_length": 1024, "max_steps": 12}
            )
            later = partial(case.recovers, uneven, {**capped, "epochs": 1, "seed": UNEVEN_SEED})
            cases.append((f"{engine}: memory runs out in the first step", first))
            cases.append((f"{engine}: memory runs out in a later, longer batch", later))
            for where in ("step:7", "evaluation:2", "load:1", "step:1,step:7"):
                injected = partial(case.recovers, dataset_id, {**common, "max_steps": 12}, inject=where)
                cases.append((f"{engine}: injected, {where}", injected))
        if "resume" in only:
            packed = {"packing": True, "max_length": 2048, "batch_size": 1, "gradient_accumulation": 1}
            rows = {"packing": False, "batch_size": 4, "gradient_accumulation": 2, "gradient_checkpointing": "off"}
            for name, batch in (("packed", packed), ("rows", rows)):
                recipe = {**card, **batch, "engine": engine, "method": "lora", "max_steps": 30, "dropout": 0.05}
                recipe |= {"learning_rate": 1e-3}
                recipe |= {"eval_steps": 10, "save_steps": 5, "early_stopping_patience": 1000}
                if options.dry_run:
                    recipe |= {"max_length": 512}
                cases.append((f"{engine}: killed and resumed, {name}", partial(case.resumes, dataset_id, recipe)))
    passed = 0
    with ThreadPoolExecutor(max_workers=1 if options.dry_run else options.parallel) as pool:
        running = {pool.submit(_timed, run): name for name, run in cases}
        for done in as_completed(running):
            line = {"check": running[done], **done.result()}
            passed += bool(line.get("ok"))
            print(json.dumps(line, ensure_ascii=False, default=str)[:2500], flush=True)
    print(json.dumps({"check": "hard cases", "passed": passed, "of": len(cases)}), flush=True)


def _timed(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        found = run()
    except Exception as error:  # noqa: BLE001 - the next case may work
        found = {"ok": False, "why": f"{type(error).__name__}: {str(error)[:600]}"}
    return {**found, "s": round(time.monotonic() - began, 1)}


@dataclass
class Case:
    """Runs of the worker alone on one base. `ends`: of `time.monotonic()`, when everything is killed."""

    workspace: Any
    base: Path
    ends: float
    dry: bool

    def recovers(self, dataset_id: str, recipe: dict[str, Any], *, inject: str = "") -> dict[str, Any]:
        """It must end with a model, and must have stepped down."""
        # The plan says that it will not fit; a plan that erred would not, and nothing is waited for then.
        folder = prepare(self.workspace, dataset_id, self.base, recipe, predicted_peak_gib=1.0)
        variables = {"TUNESMITH_TEST_OUT_OF_MEMORY": inject} if inject else {}
        self._wait(launch([folder], **variables))
        run = left_by(folder)
        line = brief(run)
        recovered = len(line.get("recoveries") or [])
        # Without a card nothing is capped, so nothing runs out by itself.
        ok = line.get("steps") is not None and (recovered > 0 or (self.dry and not inject))
        return {"ok": ok, "recovered": recovered, **line}

    def resumes(self, dataset_id: str, recipe: dict[str, Any]) -> dict[str, Any]:
        """Killed after a checkpoint and resumed, it must end as the undisturbed one did."""
        quiet = prepare(self.workspace, dataset_id, self.base, recipe)
        process = launch([quiet])
        killed = prepare(self.workspace, dataset_id, self.base, recipe)
        disturbed = launch([killed])
        if not self._kill_after(disturbed, killed, 12):
            return {"ok": False, "why": "it ended before it was killed", "log": left_by(killed)["log"][-12:]}
        resumed = prepare(self.workspace, dataset_id, self.base, recipe)
        spec = json.loads((resumed / "spec.json").read_text())
        spec["args"]["resume_from"] = killed.name
        (resumed / "spec.json").write_text(json.dumps(spec))
        self._wait(launch([resumed]))
        self._wait(process)
        curves = [curve_of(quiet, "eval_loss"), curve_of(resumed, "eval_loss")]
        both = sorted(set(curves[0]) & set(curves[1]))
        line, other = brief(left_by(resumed)), brief(left_by(quiet))
        if "eval_loss" not in line or "eval_loss" not in other:
            return {"ok": False, **line, "undisturbed": other}
        apart = abs(line["eval_loss"]["after"] / other["eval_loss"]["after"] - 1)
        worst = max(abs(curves[0][step] - curves[1][step]) / curves[0][step] for step in both)
        found = {"ok": apart < TOLERANCE and len(both) > 0, "heldout_apart": round(apart, 6)}
        found |= {"looks_apart": round(worst, 6), "looks_compared": len(both)}
        return {**found, "undisturbed": other["eval_loss"], **line}

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(timeout=max(1.0, self.ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _kill_after(self, process: subprocess.Popen[bytes], folder: Path, step: int) -> bool:
        while process.poll() is None and time.monotonic() < self.ends:
            if max(curve_of(folder), default=0) >= step and any((folder / "checkpoints").glob("*/COMPLETE.json")):
                process.kill()
                process.wait()
                return not (folder / "result.json").is_file()
            time.sleep(0.02)
        process.kill()
        process.wait()
        return False


def curve_of(folder: Path, kind: str = "loss") -> dict[int, float]:
    """Loss by step; half a line at the end is left out. A card's training loss is a mean over steps that time chose."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return {line["step"]: line[kind] for line in found if line[kind] is not None}


def uneven_rows() -> list[dict[str, str]]:
    """160 short rows to train on and 16 that are longer than 1,900 tokens; short ones held out."""
    words = (setting.NOTES / "day-01-company.md").read_text(encoding="utf-8").split()
    rows = [
        {
            "instruction": f"Say line {number}.",
            "output": " ".join(words[number : number + 30]),
            "split": "eval" if number % 16 == 15 else "train",
        }
        for number in range(171)
    ]
    long = " ".join(words * 8)[:9000]
    return rows + [{"instruction": f"Say text {number}.", "output": long, "split": "train"} for number in range(16)]


if __name__ == "__main__":
    anyio.run(main)
