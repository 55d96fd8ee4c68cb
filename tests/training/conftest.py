from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.warm_workers import WarmWorker, run_script
from tunesmith.data.records import Message, Row, Source
from tunesmith.data.store import DatasetStore
from tunesmith.models.store import ModelStore
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import parse_options
from tunesmith.work import run_by_hand
from tunesmith.workspace import Workspace

Worker = subprocess.Popen[bytes] | WarmWorker
BUILDER = Path(__file__).with_name("tiny_model.py")
# A short run that looks and saves often, with dropout, so that the state of the random numbers matters.
RESUMABLE = {
    "epochs": 8,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "learning_rate": 0.01,
    "dropout": 0.1,
    "rank": 4,
    "eval_steps": 5,
    "save_steps": 2,
    "early_stopping_patience": 100,
}
COLOURS = ("red", "green", "blue", "amber", "violet", "grey")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama; built in a process of its own, so that torch stays out of this one."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    run_script(BUILDER, str(folder))
    return folder


@pytest.fixture
def workspace(tmp_path: Path, tiny_base: Path) -> Workspace:
    return Workspace(tmp_path / "ws", [tiny_base.parent, tmp_path])


def make_rows(count: int, *, answer: str | None = None, group_size: int = 1) -> list[Row]:
    """Rows about lamps; each `group_size` of them come from one section."""
    rows = []
    for number in range(count):
        text = f"Lamp {number} shines {COLOURS[number % len(COLOURS)]}." if answer is None else answer
        section = number // group_size
        source = Source(path="lamps.md", sha256="0" * 64, first_line=section + 1, last_line=section + 1, strategy="faq")
        messages = [
            Message(role="user", content=f"Which colour has lamp {number}?"),
            Message(role="assistant", content=text),
        ]
        rows.append(Row(row_id="", messages=messages, source=source))
    return rows


@pytest.fixture
def new_dataset(workspace: Workspace) -> Callable[[list[Row]], str]:
    def create(rows: list[Row]) -> str:
        return DatasetStore(workspace).create(rows, name="lamps", created_by="test").dataset_id

    return create


@pytest.fixture
def start_worker(request: pytest.FixtureRequest, workspace: Workspace) -> Callable[..., tuple[Worker, Path]]:
    """Start a worker process on arguments; returns it and its run folder."""
    started: list[Worker] = []
    # Unsloth has to be imported before what the warm ones have.
    start_process = _cold_worker if request.node.get_closest_marker("gpu") else partial(WarmWorker, "training")

    def start(
        args: dict[str, Any], before: Callable[[Path], Any] | None = None, **environment: str
    ) -> tuple[Worker, Path]:
        run_dir = run_by_hand(workspace, "train", args)
        if before is not None:
            before(run_dir)
        # Without AVX-512 the products in bfloat16 are slow beyond doubt: two runs that are compared never
        # measure differently which number format is the faster.
        process = start_process(run_dir, {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", **environment})
        started.append(process)
        return process, run_dir

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)


def _cold_worker(run_dir: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (run_dir / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "tunesmith.training.worker", str(run_dir)]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def outcome(process: Worker, run_dir: Path) -> dict[str, Any]:
    """Wait for a worker and read what it left; its log is shown when it left nothing."""
    process.wait(timeout=150)
    path = run_dir / "result.json"
    assert path.is_file(), (run_dir / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
    return json.loads(path.read_text(encoding="utf-8"))


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def arguments_for(workspace: Workspace, dataset_id: str, base: Path, **changed: Any) -> dict[str, Any]:
    """Arguments of a worker for a short run that can be resumed."""
    return start_arguments(plan(workspace, dataset_id, str(base), parse_options({**RESUMABLE, **changed})))


def wait_until(process: Worker, run_dir: Path, condition: Callable[[], Any]) -> None:
    """Until the condition holds. Fails when the worker ends before, with its log."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, (run_dir / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for_step(process: Worker, run_dir: Path, step: int) -> None:
    """Until the training loss of that optimizer step was written."""
    path = run_dir / "metrics.jsonl"
    mark = f'"step": {step},'
    wait_until(process, run_dir, lambda: path.is_file() and mark in path.read_text(encoding="utf-8"))


def kill(process: Worker) -> None:
    process.kill()
    process.wait(timeout=30)


def adapter_of(workspace: Workspace, result: dict[str, Any]) -> dict[str, Any]:
    """The weights of the model a run made, by name, as numpy arrays."""
    from safetensors.numpy import load_file

    folder = ModelStore(workspace).folder(result["model_id"])
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Between two adapters, over all their numbers."""
    assert one.keys() == other.keys()
    return max(float(abs(one[name] - other[name]).max()) for name in one)


def curve_of(run_dir: Path) -> dict[str, Any]:
    """The run's losses by step and kind, in the order they were written; comparable with pytest.approx."""
    kinds = ("loss", "eval_loss")
    return {f"{kind} {line['step']}": line[kind] for line in metrics_of(run_dir) for kind in kinds if line[kind]}
