"""The road from notes to a plan, and once, for real, to an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

Drive = Callable[..., Any]


def test_notes_become_a_scored_clean_split_dataset_with_resources(drive: Drive) -> None:
    async def talk(client: Client) -> None:
        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result.content[0].text
            assert json.loads(result.content[0].text) == result.structured_content
            return result.structured_content

        run = await call("extract_qa", source="notes", wait_s=40)
        assert run["state"] == "succeeded"
        assert run["result"]["dataset"]["rows"] >= 4
        dataset_id = run["result"]["dataset"]["dataset_id"]
        assert dataset_id in run["next"]
        preview = await call("preview_dataset", dataset_id=dataset_id, render=True)
        first = preview["rows"][0]
        assert first["row"]["source"]["path"] == "wren.md"
        assert "<|im_start|>assistant" in first["rendered"]["text"]
        assert any(part["trained"] for part in first["rendered"]["segments"])
        score = (await call("score_dataset", dataset_id=dataset_id, wait_s=40))["result"]
        assert score["passed"] + score["flagged"] == score["rows"]
        clean = await call("clean_dataset", dataset_id=dataset_id, wait_s=40)
        assert clean["rows_in"] == clean["kept"] + clean["dropped"]
        split = await call("split_dataset", dataset_id=clean["dataset_id"], eval_fraction=0.25)
        assert split["splits"]["eval"] >= 1
        assert split["parents"] == [clean["dataset_id"]]
        listed = {resource.uri for resource in (await client.list_resources()).resources}
        assert {f"datasets://{dataset_id}", f"runs://{run['run_id']}"} <= listed
        rows = json.loads((await client.read_resource(f"datasets://{dataset_id}/rows")).contents[0].text)
        assert rows["total"] == run["result"]["dataset"]["rows"]
        report = json.loads((await client.read_resource(f"datasets://{dataset_id}/report")).contents[0].text)
        assert "rows" in report
        with pytest.raises(MCPError, match="not an id"):
            await client.read_resource("runs://nothing")

    drive(talk)


def test_the_server_answers_over_stdio_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tunesmith.server.app import build_server;"
        "from tunesmith.server.settings import Settings; build_server(Settings(workspace=Path(sys.argv[1])));"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'openai', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

    async def main() -> int:
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "tunesmith", "serve", "--workspace", str(tmp_path / "b")]
        )
        async with Client(command) as client:
            return len((await client.list_tools()).tools)

    assert anyio.run(main) == 23


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_model_is_trained_exported_asked_and_compared(server: Any, notes: Path) -> None:
    rows = [
        {"instruction": f"What does code W{n} mean?", "output": f"Code W{n} means that the wren saw {n} herons today."}
        for n in range(24)
    ]
    (notes.parent / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))

    async def main() -> None:
        async with Client(server) as client:

            async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result.content[0].text
                return result.structured_content

            async def finish(run: dict[str, Any]) -> dict[str, Any]:
                while run["state"] in ("queued", "starting", "running"):
                    run = await call("get_run", run_id=run["run_id"], wait_s=30)
                assert run["state"] == "succeeded", (run["error"], run["log_tail"])
                return run

            imported = await call("import_dataset", source="qa.jsonl")
            dataset = await call("split_dataset", dataset_id=imported["dataset_id"], eval_fraction=0.15)
            recipe = {"max_steps": 6, "learning_rate": 1e-3, "eval_steps": 6, "save_steps": 6}
            started = await call("start_training", dataset_id=dataset["dataset_id"], recipe=recipe)
            trained = await finish(started)
            loss = trained["result"]["eval_loss"]
            assert loss["after"] < loss["before"]
            assert trained["metrics"]
            assert (await call("diagnose_run", run_id=trained["run_id"]))["health"]
            exported = await finish(await call("export_gguf", model=trained["run_id"], wait_s=50))
            (file,) = exported["result"]["files"]
            assert Path(file["path"]).stat().st_size == file["bytes"]
            assert 0 <= file["mean_kld"] < 1
            reply = await call("ask_model", model=trained["run_id"], prompt="What does code W3 mean?", max_tokens=24)
            assert reply["reply"]
            models = [{"label": "base", "model": "embedded"}, {"label": "tuned", "model": trained["run_id"]}]
            compared = await finish(
                await call("compare_models", models=models, dataset_id=dataset["dataset_id"], max_tokens=24, wait_s=50)
            )
            assert compared["result"]["verdict"]["answer"] in ("better", "worse", "no_evidence")
            refused = await client.call_tool(
                "register_ollama",
                {"model": trained["run_id"], "name": "wren", "host": "http://127.0.0.1:9", "wait_s": 40},
            )
            assert refused.structured_content["error"]["code"] == "unreachable"
            svg = (await client.read_resource(f"runs://{trained['run_id']}/loss.svg")).contents[0].text
            assert svg.startswith("<svg")

    anyio.run(main)
