"""The contract between a run's supervisor and its worker process.

A worker is `python -m tunesmith.ROOM.worker RUN_DIR`. It reads `spec.json`,
prints its log, appends progress to `events.jsonl` and measurements to
`metrics.jsonl`, and leaves `result.json`: `{"result": …}` or `{"error": {code,
message, next}}`. SIGTERM asks it to stop; it saves what it must and ends.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DiskFull, MissingExtra, OutOfMemory, UserError
from tunesmith.files import raise_if_disk_full, write_atomic
from tunesmith.workspace import Workspace, new_id

if TYPE_CHECKING:
    from pydantic import BaseModel

EXIT_FAILED = 1
EXIT_CANCELLED = 75  # EX_TEMPFAIL: ended early because it was asked to
PROGRESS_INTERVAL_S = 0.2
RESERVE = "reserve"  # a file in the run's folder that is given up to write down that the disk is full
RESERVE_BYTES = 128 * 1024


def worker_command(room: str) -> list[str]:
    """How a room's worker is started; the run's folder follows."""
    # -P: the folder the server was started in must not stand before the library.
    return [sys.executable, "-P", "-m", f"tunesmith.{room}.worker"]


def spec_of(workspace: Workspace, run_id: str, kind: str, **job: Any) -> dict[str, Any]:
    """The content of a run's `spec.json`: its `args` among the job's fields."""
    roots = [str(root) for root in workspace.roots.roots]
    return {"run_id": run_id, "kind": kind, **job, "workspace": str(workspace.root), "roots": roots}


def run_by_hand(workspace: Workspace, kind: str, args: Mapping[str, Any]) -> Path:
    """The folder of a run that no supervisor knows, for a worker started by hand, as tests and benchmarks do."""
    run_id = new_id("run")
    run_dir = workspace.runs / run_id
    run_dir.mkdir()
    (run_dir / "spec.json").write_text(json.dumps(spec_of(workspace, run_id, kind, args=dict(args))), encoding="utf-8")
    return run_dir


class Cancelled(BaseException):
    """Raised in a worker that was asked to stop. Not an `Exception`: libraries must not swallow it."""


class Work:
    """What a worker sees of its run.

    Attributes:
        run_id: the run's id.
        kind: what is to be done; picks the handler.
        args: the arguments of the job, from `spec.json`.
        workspace: the workspace the run belongs to, with the caller's allowed roots.
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        spec = json.loads((run_dir / "spec.json").read_text(encoding="utf-8"))
        self.run_dir = run_dir
        self.run_id: str = spec["run_id"]
        self.kind: str = spec["kind"]
        self.args: dict[str, Any] = spec["args"]
        self.workspace = Workspace(Path(spec["workspace"]), [Path(root) for root in spec["roots"]])
        self.stop_requested = False
        self._last_progress = 0.0
        self._last_message = ""

    def progress(
        self, message: str, *, step: int | None = None, total_steps: int | None = None, eta_s: float | None = None
    ) -> None:
        """Tell whoever watches how far the work is. Cheap: at most five lines a second of one stage are kept."""
        now = time.monotonic()
        # A new message opens a stage that may last minutes: it is never dropped.
        same_stage = message == self._last_message and step != total_steps
        if same_stage and now - self._last_progress < PROGRESS_INTERVAL_S:
            return
        self._last_progress, self._last_message = now, message
        fraction = step / total_steps if step is not None and total_steps else None
        _append(
            self.run_dir / "events.jsonl",
            {
                "at": time.time(),
                "message": message,
                "step": step,
                "total_steps": total_steps,
                "fraction": fraction,
                "eta_s": eta_s,
            },
        )

    def metric(self, values: Mapping[str, float | int | None]) -> None:
        """Append one line of measurements to `metrics.jsonl`."""
        _append(self.run_dir / "metrics.jsonl", dict(values))

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the run was asked to stop. Call it between units of work."""
        if self.stop_requested:
            raise Cancelled


def run_worker(handlers: Mapping[str, Callable[[Work], BaseModel | dict[str, Any]]]) -> None:
    """The `main` of a worker module: do the work named in the spec, leave `result.json`, exit."""
    work = Work(Path(sys.argv[1]))

    def stop(_signal: int, _frame: object) -> None:
        work.stop_requested = True

    signal.signal(signal.SIGTERM, stop)
    sys.exit(_perform(work, handlers[work.kind]))


def _perform(work: Work, handler: Callable[[Work], BaseModel | dict[str, Any]]) -> int:
    try:
        result = handler(work)
        content = result if isinstance(result, dict) else result.model_dump(mode="json")
        write_atomic(work.run_dir / "result.json", json.dumps({"result": content}))
    except Cancelled:
        _say("Stopped because it was asked to.")
        return EXIT_CANCELLED
    except UserError as error:
        _say(str(error))
        return _leave_error(work, error)
    except Exception as error:  # noqa: BLE001 - the process ends here: every failure becomes the run's error, traceback in the log
        _say(traceback.format_exc())
        return _leave_error(work, _as_user_error(error, work.run_dir))
    return 0


def _leave_error(work: Work, error: UserError) -> int:
    content = json.dumps({"error": error.as_record()})
    try:
        write_atomic(work.run_dir / "result.json", content)
    except DiskFull:
        (work.run_dir / RESERVE).unlink(missing_ok=True)
        write_atomic(work.run_dir / "result.json", content)
    return EXIT_FAILED


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the log may lie on the disk that is full
        print(text, flush=True)


def _as_user_error(error: Exception, run_dir: Path) -> UserError:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory(
            f"Memory ran out: {str(error)[:200] or type(error).__name__}.",
            next="Use a smaller base model, batch_size 1 or a shorter max_length, and start again.",
        )
    if isinstance(error, OSError):
        try:
            raise_if_disk_full(error, run_dir / "result.json")
        except UserError as full:
            return full
    if isinstance(error, ModuleNotFoundError):
        return MissingExtra(error.name or str(error), extra="train", purpose="do this work")
    if isinstance(error, ImportError):
        return UserError(
            f"A package failed to import: {str(error)[:300]}",
            next="Call check_gpu with probe=true; it names the package and the fix.",
            code="import_error",
        )
    return UserError(
        f"The worker failed: {type(error).__name__}: {str(error)[:300]}",
        next="Read the run's log for the traceback; if it looks like our bug, please report it.",
        code="internal_error",
    )


def _append(path: Path, record: dict[str, Any]) -> None:
    # One write call a line: a reader never sees two half lines mixed, at worst one half line at the end.
    with path.open("ab") as file:
        # ASCII: a lone surrogate out of somebody's file has no UTF-8.
        file.write(json.dumps(record).encode("ascii") + b"\n")
