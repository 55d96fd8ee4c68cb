"""A run as callers see it: its row, and what its processes left in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith import checkpoints
from tunesmith.runs import log, measurements
from tunesmith.runs.outcome import read_result
from tunesmith.runs.records import Progress, Run, RunError
from tunesmith.runs.states import CANCELLED, CANCELLING, FAILED, LOST, QUEUED, SUCCEEDED, TERMINAL
from tunesmith.runs.store import RunRow

METRIC_POINTS = 50


def describe(
    row: RunRow,
    run_dir: Path,
    queue: list[RunRow],
    *,
    log_lines: int = 0,
    metrics: bool = False,
    brief: bool = False,
) -> Run:
    """The run.

    Args:
        queue: what runs and waits now; only looked at for a run that waits.
        log_lines: how many of the log's last lines.
        metrics: whether with at most 50 points of its measurements; only training has any.
        brief: without the result, as in a list.
    """
    lines, left_out = log.tail(run_dir / "log.txt", log_lines) if log_lines else ([], 0)
    result = (read_result(run_dir) or {}).get("result") if row.state == SUCCEEDED and not brief else None
    uri = f"runs://{row.run_id}"
    resources = [uri, f"{uri}/log"]
    step = None
    if row.kind == "train":
        resources += [f"{uri}/metrics", f"{uri}/loss.svg"]
        step = checkpoints.newest_sealed_step(run_dir / "checkpoints")
    points = None
    if metrics and row.kind == "train":
        points = measurements.sample(run_dir / "metrics.jsonl", METRIC_POINTS).points
    return Run.model_validate(
        {
            "run_id": row.run_id,
            "kind": row.kind,
            "state": row.state,
            "created_at": row.created_at,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "progress": _progress(row, run_dir, queue),
            "result": result,
            "error": RunError(**row.error) if row.error else None,
            "log_tail": lines,
            "log_lines_left_out": left_out or None,
            "metrics": points,
            "checkpoint_step": step,
            "resume_of": row.resume_of,
            "orphaned": row.orphaned,
            "forced": row.forced,
            "resources": resources,
            "next": _next(row, result, step),
        }
    )


def _progress(row: RunRow, run_dir: Path, queue: list[RunRow]) -> Progress:
    if row.state == QUEUED:
        ahead = [
            other.run_id
            for other in queue
            if not set(other.held).isdisjoint(row.slots)
            or (other.state == QUEUED and other.seq < row.seq and not set(other.slots).isdisjoint(row.slots))
        ]
        more = f" and {len(ahead) - 5} more" if len(ahead) > 5 else ""
        return Progress(message=f"Waiting for {', '.join(ahead[:5]) or 'a free slot'}{more}.")
    known = measurements.last_progress(run_dir / "events.jsonl")
    if row.state == SUCCEEDED:
        known |= {"fraction": 1.0, "eta_s": None}
    elif row.state in TERMINAL:
        known["eta_s"] = None
    return Progress(**known)


def _next(row: RunRow, result: dict[str, Any] | None, step: int | None) -> str:
    if row.state in (FAILED, LOST, CANCELLED) and step is not None:
        return f'resume_run(run_id="{row.run_id}") goes on from step {step}.'
    if row.state in (FAILED, LOST):
        return row.error["next"] if row.error else "Read the log."
    if row.state == CANCELLED:
        return "Nothing: it was cancelled. Start it again when you like."
    if row.state != SUCCEEDED:
        waiting = "It is ending. " if row.state == CANCELLING else ""
        return f'{waiting}Call get_run(run_id="{row.run_id}", wait_s=30).'
    if result is None:
        return f'Call get_run(run_id="{row.run_id}") for its result.'
    found = result
    return {
        "extract": f'score_dataset(dataset_id="{found.get("dataset", {}).get("dataset_id")}")',
        "score": "Read the findings; then clean_dataset with the same dataset_id, or split_dataset if it is clean.",
        "import": f'score_dataset(dataset_id="{found.get("dataset_id")}")',
        "split": f'plan_training(dataset_id="{found.get("dataset_id")}")',
        "write": "Nothing: the file is written.",
        "clean": f'split_dataset(dataset_id="{found.get("dataset_id")}")',
        "train": f'diagnose_run(run_id="{row.run_id}"), then export_gguf(model="{found.get("model_id")}")',
        "export": f'register_ollama(model="{found.get("model_id")}", name="my-notes"), or compare_models.',
        "register": f"Chat with it: {found.get('command')}",
        "compare": f"Read the report: {found.get('report')}",
    }[row.kind]
