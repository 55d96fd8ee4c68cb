from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from tunesmith.data.records import Dataset, Message, Row
from tunesmith.data.store import DatasetStore
from tunesmith.work import Work
from tunesmith.workspace import Workspace, new_id

KEY_VARIABLES = (
    "OPENAI_API_KEY", "TUNESMITH_OPENAI_API_KEY", "OPENAI_BASE_URL", "TUNESMITH_OPENAI_BASE_URL", "OLLAMA_HOST",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", [tmp_path])


@pytest.fixture
def new_work(workspace: Workspace, tmp_path: Path) -> Callable[..., Work]:
    """Makes the run of a comparison, or finds the one in `run_dir` again."""

    def make(run_dir: Path | None = None, **arguments: Any) -> Work:
        folder = run_dir or tmp_path / new_id("run")
        folder.mkdir(exist_ok=True)
        spec = {
            "run_id": new_id("run"),
            "kind": "compare",
            "args": arguments,
            "workspace": str(workspace.root),
            "roots": [str(root) for root in workspace.roots.roots],
        }
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        return Work(folder)

    return make


def part_rows(first: int, last: int, split: Literal["train", "eval"] | None = None) -> list[Row]:
    """Rows about parts with these numbers."""
    return [
        Row(
            row_id="",
            messages=[
                Message(role="user", content=f"What is part {number} for?"),
                Message(role="assistant", content=f"Part {number} holds the lid of the grey box number {number} shut."),
            ],
            split=split,
        )
        for number in range(first, last + 1)
    ]


def make_dataset(workspace: Workspace, *, train: int = 6, held_out: int = 3) -> Dataset:
    """Rows about parts; the last ones are held out. Without any to hold out it is not split."""
    rows = [
        *part_rows(1, train, "train" if held_out else None),
        *part_rows(train + 1, train + held_out, "eval"),
    ]
    return DatasetStore(workspace).create(rows, name="parts", created_by="test")
