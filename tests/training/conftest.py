from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.records import Message, Row, Source
from tunesmith.data.store import DatasetStore
from tunesmith.workspace import Workspace

BUILDER = Path(__file__).with_name("tiny_model.py")
COLOURS = ("red", "green", "blue", "amber", "violet", "grey")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama; built in a process of its own, so that torch stays out of this one."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    subprocess.run([sys.executable, str(BUILDER), str(folder)], check=True, capture_output=True, timeout=120)
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
def start_worker(workspace: Workspace) -> Callable[..., tuple[subprocess.Popen[bytes], Path]]:
    """Start the real worker process on arguments; returns it and its run folder."""
    started: list[subprocess.Popen[bytes]] = []

    def start(args: dict[str, Any], **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
        run_id = "run_" + "abcdefghijkl"[len(started) :].ljust(12, "a")
        run_dir = workspace.runs / run_id
        run_dir.mkdir()
        spec = {
            "run_id": run_id,
            "kind": "train",
            "args": args,
            "workspace": str(workspace.root),
            "roots": [str(root) for root in workspace.roots.roots],
        }
        (run_dir / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        with (run_dir / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tunesmith.training.worker", str(run_dir)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        started.append(process)
        return process, run_dir

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)


def outcome(process: subprocess.Popen[bytes], run_dir: Path) -> dict[str, Any]:
    """Wait for a worker and read what it left; its log is shown when it left nothing."""
    process.wait(timeout=150)
    path = run_dir / "result.json"
    assert path.is_file(), (run_dir / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
    return json.loads(path.read_text(encoding="utf-8"))


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
