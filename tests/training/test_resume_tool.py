"""Training, cancelling, resuming through a client of the server, as a chat does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from tests.training.conftest import RESUMABLE, make_rows
from tunesmith.server.app import build_server
from tunesmith.server.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ENDED = ("succeeded", "failed", "cancelled", "lost")


def talk(server: Any, conversation: Any) -> None:
    async def main() -> None:
        async with Client(server) as client:

            async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result.content[0].text
                return result.structured_content

            async def refusal(tool: str, **arguments: Any) -> str:
                result = await client.call_tool(tool, arguments)
                assert result.is_error
                return result.content[0].text

            with anyio.fail_after(300):
                await conversation(call, refusal)

    anyio.run(main)


def test_a_training_is_cancelled_resumed_and_trained_longer(workspace, new_dataset, tiny_base) -> None:
    dataset_id = new_dataset(make_rows(24))
    server = build_server(Settings(workspace=workspace.root, allow_roots=list(workspace.roots.roots)))
    recipe = {**RESUMABLE, "epochs": 100, "save_steps": 100, "eval_steps": 100}

    async def conversation(call: Any, refusal: Any) -> None:
        async def until(run: dict[str, Any], condition: Any) -> dict[str, Any]:
            while not condition(run) and run["state"] not in ENDED:
                run = await call("get_run", run_id=run["run_id"], wait_s=0.2)
            return run

        started = await call("start_training", dataset_id=dataset_id, base_model=str(tiny_base), recipe=recipe)
        run_id = started["run_id"]
        run = await until(started, lambda run: (run["progress"]["step"] or 0) >= 3)
        assert run["state"] == "running", (run["error"], run["log_tail"])
        assert "cancel_run" in await refusal("resume_run", run_id=run_id)
        cancelled = await until(await call("cancel_run", run_id=run_id), lambda _: False)
        assert cancelled["state"] == "cancelled"
        assert "did you mean epochs" in await refusal("resume_run", run_id=run_id, recipe_changes={"epoch": 1})
        assert "start_training" in await refusal("resume_run", run_id=run_id, recipe_changes={"rank": 8})

        reached = cancelled["progress"]["step"]
        longer = {"max_steps": reached + 20, "epochs": 100}
        resumed = await call("resume_run", run_id=run_id, recipe_changes=longer, idempotency_key="again")
        assert resumed["resume_of"] == run_id
        assert (await call("resume_run", run_id=run_id, recipe_changes=longer, idempotency_key="again"))[
            "run_id"
        ] == resumed["run_id"]
        done = await until(resumed, lambda _: False)
        assert done["state"] == "succeeded", (done["error"], done["log_tail"])
        assert done["result"]["steps"] == reached + 20
        assert done["result"]["resumed_from"]["run_id"] == run_id
        assert 3 <= done["result"]["resumed_from"]["step"] <= reached + 1
        assert "is finished" in await refusal("resume_run", run_id=resumed["run_id"])
        assert resumed["run_id"] in await refusal("resume_run", run_id=run_id)

    talk(server, conversation)


@pytest.mark.fault("F23")
def test_a_torch_that_cannot_be_imported_fails_the_run_and_nothing_else(
    workspace, new_dataset, tiny_base, tmp_path: Path, monkeypatch
) -> None:
    dataset_id = new_dataset(make_rows(24))
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))  # workers inherit it; this process has its path already
    server = build_server(Settings(workspace=workspace.root, allow_roots=list(workspace.roots.roots)))

    async def conversation(call: Any, refusal: Any) -> None:
        run = await call(
            "start_training", dataset_id=dataset_id, base_model=str(tiny_base), recipe=RESUMABLE, wait_s=50
        )
        while run["state"] not in ENDED:
            run = await call("get_run", run_id=run["run_id"], wait_s=10)
        assert run["state"] == "failed"
        assert run["error"]["code"] == "import_error"
        assert "libcudart" in run["error"]["message"]
        assert "check_gpu" in run["error"]["next"]
        assert "[no_checkpoint]" in await refusal("resume_run", run_id=run["run_id"])
        scored = await call("score_dataset", dataset_id=dataset_id, wait_s=40)
        assert scored["state"] == "succeeded", scored["error"]
        assert (await call("list_datasets"))["total"] == 1
        await call("plan_training", dataset_id=dataset_id, base_model=str(tiny_base))

    talk(server, conversation)
