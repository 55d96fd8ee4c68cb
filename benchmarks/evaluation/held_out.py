"""Base against tuned SmolLM2 on held-out rows of the demo's notes, through an MCP client, with the report.

    python benchmarks/evaluation/held_out.py --workspace .held-out --steps 130 --eval-fraction 0.2

Prints one JSON line: held-out losses, both similarities with intervals, memorised shares, verdict, advice, report.
At 215 tokens/s, on two idle cores, a step should take about 4 s and 130 steps about 10 minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import anyio

from tunesmith.demo import RECIPE, call, connected, examples_folder, finish


async def work(client: Any, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool's result, its run waited for."""
    answer = await call(client, tool, arguments)
    if "state" not in answer:
        return answer
    run = await finish(client, answer, wait_s=20)
    if run["state"] != "succeeded":
        raise SystemExit(f"{tool}: {run['state']}: {run['error']}")
    return run["result"]


async def main(workspace: Path, steps: int, eval_fraction: float, max_tokens: int) -> None:
    notes = examples_folder() / "notes"
    workspace.mkdir(parents=True, exist_ok=True)
    async with connected(workspace.resolve(), notes) as client:
        extracted = await work(client, "extract_qa", {"source": str(notes)})
        cleaned = await work(client, "clean_dataset", {"dataset_id": extracted["dataset"]["dataset_id"], "wait_s": 50})
        split = {"dataset_id": cleaned["dataset_id"], "eval_fraction": eval_fraction}
        dataset = await work(client, "split_dataset", split)
        recipe = {**RECIPE, "max_steps": steps, "eval_steps": max(1, steps // 2), "save_steps": steps}
        what = {"dataset_id": dataset["dataset_id"], "base_model": "embedded", "recipe": recipe}
        started = time.monotonic()
        trained = await work(client, "start_training", {**what, "wait_s": 0})
        seconds = time.monotonic() - started
        export = {"model": trained["model_id"], "quantizations": ["q8_0"], "verify": False, "wait_s": 0}
        await work(client, "export_gguf", export)
        models = [{"label": "base", "model": "embedded"}, {"label": "tuned", "model": trained["model_id"]}]
        asked = {"models": models, "dataset_id": dataset["dataset_id"], "max_tokens": max_tokens, "wait_s": 0}
        result = await work(client, "compare_models", asked)
    print(
        json.dumps(
            {
                "rows": dataset["splits"],
                "steps": trained["steps"],
                "training_s": round(seconds),
                "questions": result["questions"],
                "heldout_loss": {one["label"]: one["heldout_loss"] for one in result["models"]},
                "similarity": {one["label"]: one["similarity"] for one in result["models"]},
                "memorised_share": {one["label"]: one["memorised_share"] for one in result["models"]},
                "stop_rate": {one["label"]: one["stop_rate"] for one in result["models"]},
                "verdict": result["verdict"],
                "worth_it": result["worth_it"]["in_one_line"],
                "report": result["report"],
            },
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path(".held-out"))
    parser.add_argument("--steps", type=int, default=130)
    parser.add_argument("--eval-fraction", type=float, default=0.2)
    parser.add_argument("--max-tokens", type=int, default=96)
    options = parser.parse_args()
    anyio.run(main, options.workspace, options.steps, options.eval_fraction, options.max_tokens)
