"""What cannot be trained is refused before anything is started, with what to do next; and nothing is lost by asking."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.models.test_hub import Hub
from tests.training.conftest import arguments_for, make_rows, outcome
from tunesmith.data.records import Message, Row
from tunesmith.data.store import DatasetStore
from tunesmith.errors import DiskFull
from tunesmith.models.catalogue import BASES
from tunesmith.training import disk_room, examples, sampling
from tunesmith.training.memory import Shape
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import Recipe, parse_options

SEVENTY_B = next(base for base in BASES if base.parameters_b > 70)


@pytest.fixture
def hub():
    found = Hub()
    found.errors["makers/gated"] = (403, "GatedRepo")
    yield found
    found.server.shutdown()
    found.server.server_close()
    found.thread.join(timeout=10)


def too_large(tiny_base: Path, folder: Path) -> Path:
    """A base whose config speaks of 70 billion weights."""
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **SEVENTY_B.config(), "model_type": "llama"}))
    return folder


def test_each_bad_request_over_stdio_gets_a_clear_error_and_nothing_is_lost(
    workspace, new_dataset, tiny_base, tmp_path, hub
):
    dataset_id, few = new_dataset(make_rows(24)), new_dataset(make_rows(3))
    huge, small = str(too_large(tiny_base, tmp_path / "huge")), str(tiny_base)
    contradictory = {
        "method": "full",
        "rank": 8,
        "batch_size": 0,
        "scheduler": "constant",
        "warmup_steps": 5,
        "ranks": 4,
    }
    asked: list[tuple[dict[str, Any], list[str]]] = [
        ({"dataset_id": dataset_id, "base_model": "makers/nothing"}, ["not_found", "makers/nothing", "spelling"]),
        ({"dataset_id": dataset_id, "base_model": "makers/gated"}, ["not_supported", "licence", "HF_TOKEN"]),
        ({"dataset_id": dataset_id, "base_model": huge}, ["does_not_fit", "needs about", "GiB"]),
        ({"dataset_id": few, "base_model": small}, ["empty_input", "3 rows", "add_examples"]),
        ({"dataset_id": "ds_aaaaaaaaaaaa", "base_model": small}, ["not_found", "ds_aaaaaaaaaaaa"]),
        (
            {"dataset_id": dataset_id, "base_model": small, "recipe": contradictory},
            ["invalid_argument", "did you mean rank", "batch_size=0", "trains no adapter", "no warm-up", "all 4"],
        ),
        (
            {"dataset_id": dataset_id, "base_model": small, "recipe": {"max_length": 16}},
            ["bad_input", "cuts off", "max_length"],
        ),
    ]  # fmt: skip
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tunesmith", "serve", "--workspace", str(workspace.root), "--allow-root", str(tmp_path),
              "--allow-root", str(tiny_base.parent)],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0",
             "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"},
    )  # fmt: skip

    async def talk() -> None:
        with anyio.fail_after(150):
            async with Client(command) as client:
                for arguments, words in asked:
                    answer = await client.call_tool("start_training", arguments)
                    text = answer.content[0].text
                    assert answer.is_error, text
                    for word in words:
                        assert word in text, (word, text)
                    assert "Next" in text or "next" in text, text
                runs = await client.call_tool("list_runs", {})
                assert runs.structured_content["total"] == 0
                kept = await client.call_tool("list_datasets", {})
                assert {dataset["dataset_id"] for dataset in kept.structured_content["datasets"]} == {dataset_id, few}
                planned = await client.call_tool("plan_training", {"dataset_id": dataset_id, "base_model": small})
                assert not planned.is_error, planned.content[0].text

    anyio.run(talk)


def test_rows_that_are_too_long_are_counted_and_reported(workspace, new_dataset, tiny_base):
    long = Row(
        row_id="",
        messages=[Message(role="user", content="Why?"), Message(role="assistant", content="Because. " * 40)],
    )
    found = plan(
        workspace, new_dataset([*make_rows(24), long, long]), str(tiny_base), parse_options({"max_length": 160})
    )
    assert found.rows.cut == 2
    assert any("2 of 26 rows are longer than max_length=160" in warning for warning in found.warnings)


def test_of_very_many_rows_a_plan_reads_some_and_the_longest(workspace, new_dataset, tiny_base, monkeypatch):
    rows = make_rows(400)
    rows[137] = Row(
        row_id="",
        messages=[Message(role="user", content="Why?"), Message(role="assistant", content="Because. " * 40)],
    )
    dataset_id = new_dataset(rows)
    whole = plan(workspace, dataset_id, str(tiny_base), parse_options({}))
    monkeypatch.setattr("tunesmith.training.job.WHOLE_UP_TO", 300)
    monkeypatch.setattr(sampling, "DRAWN", 100)
    monkeypatch.setattr(sampling, "LONGEST", 10)
    read = []
    monkeypatch.setattr(
        "tunesmith.training.job.tokenise",
        lambda rows, *rest, **options: read.extend(rows) or examples.tokenise(rows, *rest, **options),
    )
    some = plan(workspace, dataset_id, str(tiny_base), parse_options({}))
    assert len(read) <= 110
    assert (some.rows.train, some.rows.eval) == (360, 40)
    assert some.recipe.max_length == whole.recipe.max_length  # of the one long row
    assert some.tokens.real == pytest.approx(whole.tokens.real, rel=0.05)
    assert some.steps == pytest.approx(whole.steps, rel=0.05)
    assert any("of 400 rows" in warning for warning in some.warnings)
    start_arguments(some)


def test_a_run_whose_checkpoints_have_no_room_is_refused_before_it_starts(
    workspace, new_dataset, tiny_base, monkeypatch
):
    planned = plan(workspace, new_dataset(make_rows(24)), str(tiny_base), parse_options({"rank": 16}))
    assert planned.disk.fits
    usage = shutil.disk_usage(workspace.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    again = plan(workspace, planned.dataset_id, str(tiny_base), parse_options({"rank": 16}))
    assert not again.disk.fits
    assert any("are free on the workspace's disk" in warning for warning in again.warnings)
    with pytest.raises(DiskFull, match="GiB") as caught:
        start_arguments(again)
    assert "tunesmith runs clean" in caught.value.next
    # 7B, every weight in 32 bits with two states: 12 bytes a weight, four times, and the model.
    seven = Shape.from_config(next(base for base in BASES if base.model_id == "Qwen/Qwen2.5-7B-Instruct").config())
    adapterless = dict.fromkeys(("rank", "alpha", "dropout", "target_modules"))
    full = Recipe.model_validate({**planned.recipe.model_dump(), **adapterless, "method": "full"})
    assert disk_room.run_bytes(seven, full) == pytest.approx(seven.parameters * (4 * 12 + 4), rel=0.01)


@pytest.mark.slow
def test_without_unsloth_the_other_engine_trains_and_the_run_says_so(workspace, new_dataset, tiny_base, start_worker):
    args = arguments_for(workspace, new_dataset(make_rows(12)), tiny_base, epochs=1)
    args["recipe"]["engine"] = "unsloth"  # as planned where it could be imported
    process, folder = start_worker(args)
    left = outcome(process, folder)
    assert "result" in left, left
    assert left["result"]["engine"] == "transformers"
    assert left["result"]["engine_fallback"].startswith("Unsloth cannot be used: ")
    # What lies on the disk at most was counted before.
    largest = max((folder / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    written = sum(path.stat().st_size for path in largest.iterdir())
    shape = Shape.from_config(json.loads((tiny_base / "config.json").read_text()))
    assert written < disk_room.checkpoint_bytes(shape, Recipe.model_validate(args["recipe"]))
    store = DatasetStore(workspace)
    assert store.get(args["dataset_id"]).rows == 12
