"""First steps on a card: the probe of check_gpu, both engines, cancel and resume_run, a real out-of-memory.

    python benchmarks/training/smoke.py [--dry-run] [--embedded]

Prints one JSON line a check. Without --embedded the model is the 0.5B one with random weights.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import anyio
import setting
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from runs import TERMINAL, alone, through_server, workspace_with_rows
from setting import environment

KEPT = ("state", "error", "steps", "tokens_per_s", "peak_gpu_gib", "predicted_peak_gib", "eval_loss", "train_loss")
KEPT += ("engine", "engine_fallback", "dtype", "recoveries", "resumed_from", "duration_s")


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
    options = parser.parse_args()
    scratch = (options.scratch or setting.big_scratch()).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = setting.tokenizer_folder(options.tokenizer, scratch).resolve()
    name = "tiny" if options.dry_run else "0.5B"
    base = "embedded" if options.embedded else str(setting.model_folder(name, scratch, tokenizer))
    rows = setting.workload(scratch, tokenizer, 120 if options.dry_run else 400)
    workspace, dataset_id = workspace_with_rows(scratch, f"smoke-{len(rows)}", rows)
    server = StdioServerParameters(
        command="python3" if not options.dry_run else __import__("sys").executable,
        args=["-m", "tunesmith", "serve", "--workspace", str(workspace.root), "--allow-root", str(scratch)],
        env=environment(),
    )

    def say(check: str, began: float, content: Any) -> None:
        line = {"check": check, "s": round(time.monotonic() - began, 1), **content}
        print(json.dumps(line, ensure_ascii=False, default=str)[:3500], flush=True)

    short = {"max_steps": 20, "eval_steps": 10, "save_steps": 10}
    fast: dict[str, Any] = {} if options.dry_run else {"optimizer": "adamw_8bit"}
    async with Client(server) as client:
        began = time.monotonic()
        if "probe" in options.only:
            answer = await client.call_tool("check_gpu", {"probe": True})
            say("probe", began, {"report": answer.structured_content, "error": answer.is_error})
        if "engines" in options.only:
            for engine in ["transformers"] if options.dry_run else ["unsloth", "transformers"]:
                for method in ["lora"] if options.dry_run else ["lora", "qlora"]:
                    began = time.monotonic()
                    recipe = {**short, "engine": engine, "method": method}
                    say(f"{engine} {method}", began, brief(await through_server(client, dataset_id, base, recipe, 120)))
        if "resume" in options.only:
            began = time.monotonic()
            recipe = {"max_steps": 60, "eval_steps": 30, "save_steps": 5, "batch_size": 2, "packing": False, **fast}
            answer = await client.call_tool(
                "start_training", {"dataset_id": dataset_id, "base_model": base, "recipe": recipe, "wait_s": 1}
            )
            run: Any = answer.structured_content
            while run["state"] not in TERMINAL and ((run.get("progress") or {}).get("step") or 0) < 12:
                if time.monotonic() - began > 120:
                    break
                answer = await client.call_tool("get_run", {"run_id": run["run_id"], "wait_s": 1, "log_lines": 30})
                run = answer.structured_content
            await client.call_tool("cancel_run", {"run_id": run["run_id"]})
            while run["state"] not in TERMINAL and time.monotonic() - began < 150:
                answer = await client.call_tool("get_run", {"run_id": run["run_id"], "wait_s": 5, "log_lines": 30})
                run = answer.structured_content
            say("cancelled", began, {**brief(run), "checkpoint_step": run.get("checkpoint_step")})
            began = time.monotonic()
            answer = await client.call_tool("resume_run", {"run_id": run["run_id"], "wait_s": 5})
            run = answer.structured_content
            if answer.is_error:
                say("resume refused", began, {"why": str(answer.content)[:800]})
            while not answer.is_error and run["state"] not in TERMINAL and time.monotonic() - began < 120:
                answer = await client.call_tool("get_run", {"run_id": run["run_id"], "wait_s": 5, "log_lines": 30})
                run = answer.structured_content
            say("resumed", began, brief(run or {}))
    if "memory" in options.only and not options.dry_run:
        for engine in ("unsloth", "transformers"):
            began = time.monotonic()
            recipe = {**short, "engine": engine, "method": "lora", "memory_budget_gib": 6.0, "batch_size": 32}
            recipe |= {
                "max_length": 1024,
                "packing": False,
                "gradient_accumulation": 1,
                "gradient_checkpointing": "off",
            }
            say(f"out of memory, {engine}", began, brief(alone(workspace, dataset_id, Path(base), recipe, 120)))


if __name__ == "__main__":
    anyio.run(main)
