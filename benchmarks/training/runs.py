"""Runs of tunesmith for the training benchmarks: through a real server, or the worker alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from setting import HERE, environment

TERMINAL = {"succeeded", "failed", "cancelled", "lost"}


def workspace_with_rows(scratch: Path, name: str, rows: list[dict[str, str]]) -> tuple[Any, str]:
    """A workspace that holds the rows as a dataset, made once; (workspace, dataset_id)."""
    from tunesmith.data.records import Message, Row, Source
    from tunesmith.data.store import DatasetStore
    from tunesmith.workspace import Workspace

    workspace = Workspace(scratch / "ws", [scratch])
    marker = scratch / f"dataset-{name}"
    if marker.is_file():
        return workspace, marker.read_text()
    made = [
        Row(
            row_id="",
            split=row.get("split"),
            messages=[
                Message(role="user", content=row["instruction"]),
                Message(role="assistant", content=row["output"]),
            ],
            source=Source(
                path="workload", sha256="0" * 64, first_line=number + 1, last_line=number + 1, strategy="faq"
            ),
        )
        for number, row in enumerate(rows)
    ]
    dataset = DatasetStore(workspace).create(made, name=name, created_by="benchmark")
    marker.write_text(dataset.dataset_id)
    return workspace, dataset.dataset_id


async def through_server(client: Any, dataset_id: str, base: Path, recipe: dict[str, Any], limit_s: float) -> Any:
    """start_training, then get_run until it ends. A run that takes longer is cancelled."""
    deadline = time.monotonic() + limit_s
    answer = await client.call_tool(
        "start_training", {"dataset_id": dataset_id, "base_model": str(base), "recipe": recipe, "wait_s": 5}
    )
    run = answer.structured_content
    if answer.is_error or not run or "run_id" not in run:
        return {"state": "refused", "why": [getattr(part, "text", "") for part in answer.content]}
    cancelled = False
    while run["state"] not in TERMINAL:
        if time.monotonic() > deadline and not cancelled:
            cancelled = True
            await client.call_tool("cancel_run", {"run_id": run["run_id"]})
        if time.monotonic() > deadline + 30:
            return {**run, "state": "stuck"}
        left = max(1.0, min(20.0, deadline - time.monotonic()))
        answer = await client.call_tool("get_run", {"run_id": run["run_id"], "wait_s": left, "log_lines": 40})
        run = answer.structured_content
    return run


def alone(
    workspace: Any, dataset_id: str, base: Path, recipe: dict[str, Any], limit_s: float, **variables: str
) -> dict[str, Any]:
    """The worker on a plan, without a server; also where the plan says that it does not fit."""
    from tunesmith.machine.check import check_machine
    from tunesmith.training.planning import plan
    from tunesmith.training.recipe import parse_options
    from tunesmith.workspace import new_id

    planned = plan(workspace, dataset_id, str(base), parse_options(recipe), machine=check_machine(workspace))
    run_id = new_id("run")
    folder = workspace.runs / run_id
    folder.mkdir()
    spec = {
        "run_id": run_id,
        "kind": "train",
        "args": {
            "dataset_id": dataset_id,
            "base_model": str(base),
            "download": False,
            "recipe": planned.recipe.model_dump(mode="json"),
            "plan": planned.model_dump(mode="json"),
        },
        "workspace": str(workspace.root),
        "roots": [str(root) for root in workspace.roots.roots],
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "measured_worker.py"), str(folder)],
            stdout=log,
            stderr=log,
            env={**environment(), **variables},
        )
        try:
            process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    found: dict[str, Any] = {"run_id": run_id, "plan": spec["args"]["plan"], "exit": process.returncode}
    for name in ("result", "memory"):
        path = folder / f"{name}.json"
        found[name] = json.loads(path.read_text()) if path.is_file() else None
    found["log"] = (folder / "log.txt").read_text(errors="replace").splitlines()[-40:]
    return found


def steady_speed(run_dir: Path, from_step: int) -> float | None:
    """Real tokens a second of the measured stretches that began at `from_step` or later.

    A line covers the steps since the line before; those of packed training hold about equally many tokens.
    """
    path = run_dir / "metrics.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []
    steps = seconds = 0.0
    before = 0
    for line in lines:
        if line.get("tokens_per_s"):
            if before >= from_step:
                steps += line["step"] - before
                seconds += (line["step"] - before) / line["tokens_per_s"]
            before = line["step"]
    return round(steps / seconds, 1) if seconds else None
