"""What a run's end means: read from what its processes left behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.files import raise_if_disk_full
from tunesmith.runs.states import CANCELLED, FAILED, LOST, SUCCEEDED
from tunesmith.work import EXIT_CANCELLED

MEMORY_HINT = "The system killed it, most often for lack of memory. Use a smaller model, batch_size or max_length."


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None when the file is missing or damaged: what cannot be read counts as absent."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """The worker's `result.json`: `{"result": …}` or `{"error": …}`."""
    return read_json(run_dir / "result.json")


def judge(run_dir: Path, exit_code: int | None, *, cancel_requested: bool) -> tuple[str, dict[str, Any] | None]:
    """The final state and error of a run whose processes are all gone.

    Args:
        exit_code: the worker's; negative for a signal; None when nobody saw it end.
    """
    left = read_result(run_dir) or {}
    if cancel_requested:
        # Intent decides: a worker that stops politely exits 0 and would look like success.
        return CANCELLED, None
    if (found := _whole_error(left.get("error"))) is not None:
        return FAILED, found
    if isinstance(left.get("result"), dict) and exit_code in (0, None):
        return SUCCEEDED, None
    if exit_code is None:
        return LOST, _error(
            "lost",
            "All of its processes are gone and none left a result (killed together, or the machine restarted).",
            "Start it again; a training run can continue from its newest checkpoint.",
        )
    if exit_code == EXIT_CANCELLED:
        return FAILED, _error(
            "interrupted",
            "Something outside tunesmith told it to stop (a shutdown, or a signal sent by hand).",
            "Start it again; a training run can continue from its newest checkpoint.",
        )
    if exit_code == -signal.SIGKILL:
        return FAILED, _error("killed_by_system", f"The worker was killed. {MEMORY_HINT}", "Start it again, smaller.")
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else str(-exit_code)
        return FAILED, _error("crashed", f"The worker died of {name}.", "Read the run's log.")
    return FAILED, _error(
        "no_result", f"The worker ended with exit code {exit_code} and left no result.", "Read the run's log."
    )


def spawn_failed(error: OSError) -> dict[str, Any]:
    """The error of a run whose process could not be started."""
    try:
        raise_if_disk_full(error, Path(error.filename or "."))
    except UserError as full:
        return full.as_record()
    return _error(
        "spawn_failed",
        f"It could not be started: {error}.",
        "Check free memory and disk, then start it again.",
    )


def _whole_error(found: Any) -> dict[str, Any] | None:
    """An error that a worker left, if it has all that callers are promised."""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("code", "message", "next")):
        return None
    return {key: found[key] for key in ("code", "message", "next")}


def _error(code: str, message: str, next_step: str) -> dict[str, Any]:
    return {"code": code, "message": message, "next": next_step}
