"""A model for the other scripts here: SmolLM2-135M trained on examples/notes through the server, a fifth held out.

    python benchmarks/export/trained.py WORKSPACE [--steps 60]

Prints {"model": "mdl_…", "dataset": "ds_…"} as its last line. Minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import anyio

from tunesmith.demo import call, connected, examples_folder, finish

HELD_OUT = 104  # questions, of which the stop test asks a hundred


async def train(workspace: Path, steps: int) -> dict[str, Any]:
    notes = examples_folder() / "notes"
    async with connected(workspace, notes) as client:

        async def work(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = await call(client, tool, {**arguments, "wait_s": 0})
            run = await finish(client, answer, lambda now: print(now["state"], now["progress"]["message"] or ""))
            if run["state"] != "succeeded":
                raise SystemExit(f"{tool}: {run['error']}")
            return run["result"]

        found = (await work("extract_qa", source=str(notes)))["dataset"]
        cleaned = await call(client, "clean_dataset", {"dataset_id": found["dataset_id"], "wait_s": 50})
        fraction = round(min(0.4, HELD_OUT / cleaned["kept"]), 3)
        split = await call(client, "split_dataset", {"dataset_id": cleaned["dataset_id"], "eval_fraction": fraction})
        recipe = {"max_steps": steps, "learning_rate": 0.001, "eval_steps": max(1, steps // 2), "save_steps": steps}
        dataset = split["dataset_id"]
        made = await work("start_training", dataset_id=dataset, base_model="embedded", recipe=recipe)
        return {
            "model": made["model_id"],
            "dataset": dataset,
            "eval_loss": made["eval_loss"],
            "splits": split["splits"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    options.workspace.mkdir(parents=True, exist_ok=True)
    print(json.dumps(anyio.run(train, options.workspace.resolve(), options.steps)))


if __name__ == "__main__":
    sys.exit(main())
