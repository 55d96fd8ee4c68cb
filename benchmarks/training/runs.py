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
TOO_MUCH_LEFT = 76  # exit status of a measured worker whose next run would begin with the last one's memory


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
            rejected=row.get("rejected"),
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


def prepare(
    workspace: Any,
    dataset_id: str,
    base: Path,
    recipe: dict[str, Any],
    *,
    predicted_peak_gib: float | None = None,
    compiled: bool = False,
) -> Path:
    """A run's folder with a spec for the worker; what does not fit is planned all the same.

    Args:
        predicted_peak_gib: written into the plan in place of the prediction.
        compiled: planned as a run that is long enough for its blocks to be compiled.
    """
    from tunesmith.training import kernels
    from tunesmith.training.planning import plan
    from tunesmith.training.recipe import parse_options
    from tunesmith.work import run_by_hand

    usual = kernels.WORTH_COMPILING
    kernels.WORTH_COMPILING = 1 if compiled else usual
    try:
        planned = plan(workspace, dataset_id, str(base), parse_options(recipe), machine=_machine(workspace))
    finally:
        kernels.WORTH_COMPILING = usual
    content = planned.model_dump(mode="json")
    if predicted_peak_gib is not None:
        content["memory"]["predicted_peak_gib"] = predicted_peak_gib
    args = {
        "dataset_id": dataset_id,
        "base_model": str(base),
        "download": False,
        "recipe": content["recipe"],
        "plan": content,
    }
    return run_by_hand(workspace, "train", args)


_MACHINES: dict[Path, Any] = {}  # looking at a machine takes seconds, and it stays the same


def _machine(workspace: Any) -> Any:
    from tunesmith.machine.check import check_machine

    if workspace.root not in _MACHINES:
        _MACHINES[workspace.root] = check_machine(workspace)
    return _MACHINES[workspace.root]


def launch(folders: list[Path], **variables: str) -> subprocess.Popen[bytes]:
    """The measured worker on these runs, one after the other, in a process of its own. Its log is the first one's."""
    with (folders[0] / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(HERE / "measured_worker.py"), *map(str, folders)],
            stdout=log,
            stderr=log,
            env={**environment(), **variables},
        )


def left_by(folder: Path) -> dict[str, Any]:
    """What a run left: plan, result, memory, the end of its log."""
    spec = json.loads((folder / "spec.json").read_text())
    found: dict[str, Any] = {"run_id": folder.name, "plan": spec["args"]["plan"]}
    for name in ("result", "memory"):
        path = folder / f"{name}.json"
        found[name] = json.loads(path.read_text()) if path.is_file() else None
    log = folder / "log.txt"
    found["log"] = log.read_text(errors="replace").splitlines()[-40:] if log.is_file() else []
    return found


def alone(
    workspace: Any, dataset_id: str, base: Path, recipe: dict[str, Any], limit_s: float, **variables: str
) -> dict[str, Any]:
    """The worker on a plan, without a server; also where the plan says that it does not fit."""
    folder = prepare(workspace, dataset_id, base, recipe, compiled="WORTH_COMPILING" in variables)
    process = launch([folder], **variables)
    try:
        process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return {**left_by(folder), "exit": process.returncode}


def several(folders: list[Path], each_s: float, ends: float, **variables: str) -> None:
    """Runs of one engine after one import; where that process ends or hangs, the next one takes the rest.

    Args:
        each_s: seconds that one run may take; the one after an import has 120 more.
        ends: of `time.monotonic()`, when the last process is killed.
    """
    waiting = list(folders)
    while waiting and time.monotonic() < ends:
        process = launch(waiting, **variables)
        since, allowed, done = time.monotonic(), each_s + 120, 0
        while process.poll() is None:
            time.sleep(0.1)
            now = sum(map(_is_done, waiting))
            if now > done:
                since, allowed, done = time.monotonic(), each_s, now
            if time.monotonic() > min(ends, since + allowed):
                process.kill()
        process.wait()
        done = sum(map(_is_done, waiting))
        # What it was at when it ended is lost, unless it ended between two runs because too much was left behind.
        waiting = waiting[done + (process.returncode not in (0, TOO_MUCH_LEFT) and done < len(waiting)) :]


def _is_done(folder: Path) -> bool:
    return (folder / "done").is_file() or (folder / "result.json").is_file()


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
