"""From a file of preference pairs to a model that prefers, through an MCP client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from tests.warm_workers import run_script

BUILDER = Path(__file__).parents[1] / "training" / "tiny_model.py"


@pytest.mark.faults
def test_pairs_become_a_model_that_prefers_the_chosen_answers(server: Any, notes: Path) -> None:
    run_script(BUILDER, str(notes / "tiny"))
    pairs = [
        {"prompt": f"Which colour has lamp {n}?", "chosen": f"Lamp {n} shines red.", "rejected": f"Lamp {n} is broken."}
        for n in range(16)
    ]
    (notes / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")

    async def main() -> None:
        async with Client(server) as client:

            async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result.content[0].text
                return result.structured_content

            made = await call("import_dataset", source="notes/pairs.jsonl")
            assert (made["format"], made["rows"], made["pairs"]) == ("preference", 16, 16)
            dataset_id = made["dataset_id"]
            page = await call("preview_dataset", dataset_id=dataset_id, limit=1, render=True)
            assert page["rows"][0]["row"]["rejected"] == "Lamp 0 is broken."
            assert "Lamp 0 is broken." in page["rows"][0]["rendered_rejected"]["text"]
            rows = json.loads((await client.read_resource(f"datasets://{dataset_id}/rows")).contents[0].text)
            assert rows["rows"][0]["rejected"] == "Lamp 0 is broken."

            base = str(notes / "tiny")
            recipe = {"epochs": 4, "learning_rate": 0.01, "rank": 4}
            plan = await call("plan_training", dataset_id=dataset_id, base_model=base, recipe=recipe)
            assert plan["objective"] == "dpo"
            run = await call("start_training", dataset_id=dataset_id, base_model=base, recipe=recipe)
            with anyio.fail_after(150):
                while run["state"] not in ("succeeded", "failed", "lost"):
                    run = await call("get_run", run_id=run["run_id"], wait_s=20)
            assert run["state"] == "succeeded", run
            result = run["result"]
            assert (result["objective"], result["rewards"]["accuracy"]) == ("dpo", 1.0)
            assert result["eval_loss"]["before"] == pytest.approx(0.693147, abs=1e-5)
            assert result["eval_loss"]["after"] < 0.68
            assert (await call("diagnose_run", run_id=run["run_id"]))["health"] in ("healthy", "unknown")

    anyio.run(main)
