"""What only a card can show. `make test-gpu`; nothing here runs elsewhere."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import kill, make_rows, wait_for_step
from tunesmith.machine.check import check_machine
from tunesmith.training.planning import plan
from tunesmith.training.recipe import parse_options
from tunesmith.workspace import Workspace

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(420)]
BUILDER = Path(__file__).with_name("card_model.py")
ENGINES = [
    "transformers",
    pytest.param("unsloth", marks=pytest.mark.skipif(find_spec("unsloth") is None, reason="Unsloth is not installed")),
]
LONG_ANSWER = "The lamp shines red, then green, then blue, and after that it rests for a while. " * 40
FULL_ROWS = {"max_length": 1024, "packing": False, "gradient_accumulation": 1, "early_stopping_patience": 1000}
# Imports and, on a first run, the compilation of kernels; the training itself takes seconds.
LIMIT_S = 300


@pytest.fixture(scope="session")
def card_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "base"
    subprocess.run([sys.executable, str(BUILDER), str(folder)], check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, card_base: Path) -> Workspace:
    return Workspace(tmp_path / "ws", [card_base.parent, tmp_path])


def arguments(workspace: Workspace, dataset_id: str, base: Path, **recipe: Any) -> dict[str, Any]:
    """Of a worker; also where the plan says that it does not fit."""
    planned = plan(workspace, dataset_id, str(base), parse_options(recipe), machine=check_machine(workspace))
    content = planned.model_dump(mode="json")
    return {
        "dataset_id": dataset_id,
        "base_model": str(base),
        "download": False,
        "recipe": content["recipe"],
        "plan": content,
    }


def result_of(process: subprocess.Popen[bytes], run_dir: Path) -> dict[str, Any]:
    process.wait(timeout=LIMIT_S)
    log = (run_dir / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
    path = run_dir / "result.json"
    assert path.is_file(), log
    left = json.loads(path.read_text(encoding="utf-8"))
    assert "result" in left, (left, log)
    return left["result"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_an_engine_learns_on_a_card_in_the_memory_that_was_predicted(
    workspace, new_dataset, card_base, start_worker, engine, method
):
    recipe = {**FULL_ROWS, "engine": engine, "method": method, "batch_size": 8, "max_steps": 8, "eval_steps": 4}
    recipe |= {"gradient_checkpointing": "off", "learning_rate": 1e-3, "warmup_steps": 0}
    dataset_id = new_dataset(make_rows(80, answer=LONG_ANSWER))
    result = result_of(*start_worker(arguments(workspace, dataset_id, card_base, **recipe)))
    assert result["device"] == "cuda"
    assert (result["engine"], result["engine_fallback"]) == (engine, None)
    assert result["eval_loss"]["after"] < result["eval_loss"]["before"]
    assert result["recoveries"] == []
    assert result["predicted_peak_gib"] == pytest.approx(result["peak_gpu_gib"], rel=0.1)


@pytest.mark.parametrize("engine", ENGINES)
def test_packing_keeps_rows_apart_on_a_card(workspace, new_dataset, card_base, start_worker, engine):
    """Packed or not, the base's loss on the same rows is the same, and the first step's loss nearly so."""
    dataset_id = new_dataset(make_rows(64))
    recipe = {"engine": engine, "method": "lora", "max_steps": 2, "learning_rate": 1e-5, "warmup_steps": 0}
    packed = {"packing": True, "max_length": 2048, "batch_size": 4, "gradient_accumulation": 1}
    rows = {"packing": False, "batch_size": 64, "gradient_accumulation": 1}
    results = [
        result_of(*start_worker(arguments(workspace, dataset_id, card_base, **recipe, **batch)))
        for batch in (packed, rows)
    ]
    assert results[0]["eval_loss"]["before"] == pytest.approx(results[1]["eval_loss"]["before"], rel=2e-3)
    assert results[0]["train_loss"] == pytest.approx(results[1]["train_loss"], rel=2e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_run_goes_on_with_its_8_bit_optimizer_and_ends_like_an_undisturbed_one(
    workspace, new_dataset, card_base, start_worker, engine
):
    recipe = {"engine": engine, "method": "lora", "optimizer": "adamw_8bit", "max_steps": 24, "save_steps": 4}
    recipe |= {"eval_steps": 4, "packing": False, "batch_size": 8, "gradient_accumulation": 1, "learning_rate": 1e-3}
    dataset_id = new_dataset(make_rows(120))
    args = arguments(workspace, dataset_id, card_base, **recipe, early_stopping_patience=1000)
    quiet = result_of(*start_worker(args))
    process, run_dir = start_worker(args)
    wait_for_step(process, run_dir, 12)
    kill(process)
    assert process.returncode == -signal.SIGKILL
    resumed = result_of(*start_worker({**args, "resume_from": run_dir.name}))
    assert 4 <= resumed["resumed_from"]["step"] < 24
    assert resumed["steps"] == quiet["steps"]
    assert resumed["eval_loss"]["after"] == pytest.approx(quiet["eval_loss"]["after"], rel=0.01)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_card_that_runs_out_of_memory_is_recovered_from(workspace, new_dataset, card_base, start_worker, engine):
    recipe = {**FULL_ROWS, "engine": engine, "method": "lora", "batch_size": 32, "gradient_checkpointing": "off"}
    recipe |= {"max_steps": 4, "eval_steps": 4, "save_steps": 2, "memory_budget_gib": 5.0}
    args = arguments(workspace, new_dataset(make_rows(80, answer=LONG_ANSWER)), card_base, **recipe)
    assert not args["plan"]["memory"]["fits"]
    args["plan"]["memory"]["predicted_peak_gib"] = 4.0  # a plan that erred: nothing is waited for
    result = result_of(*start_worker(args))
    assert result["steps"] == 4
    assert result["recoveries"]
    assert result["peak_gpu_gib"] <= 5.0
