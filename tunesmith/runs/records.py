"""A run as callers see it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunesmith.records import Record

State = Literal["queued", "starting", "running", "cancelling", "succeeded", "failed", "cancelled", "lost"]
Kind = Literal["extract", "import", "score", "clean", "split", "write", "train", "export", "register", "compare"]


class Progress(Record):
    """How far the work is."""

    fraction: float | None = Field(default=None, description="0 to 1; null when the end is not known.")
    step: int | None = Field(default=None, description="Units done.")
    total_steps: int | None = Field(default=None, description="Units in all.")
    eta_s: float | None = Field(default=None, description="Seconds to go; null when not known.")
    message: str = Field(default="", description="What is being done.")


class RunError(Record):
    """Why a run failed."""

    code: str = Field(description="Stable code.")
    message: str = Field(description="What happened.")
    next: str = Field(description="What to do.")


class Run(Record):
    """One piece of work in a process of its own."""

    run_id: str = Field(description="run_ and 12 characters.")
    kind: Kind = Field(description="What is being done.")
    state: State = Field(description="Where it stands.")
    created_at: str = Field(description="ISO 8601, UTC.")
    started_at: str | None = Field(description="ISO 8601, UTC.")
    finished_at: str | None = Field(description="ISO 8601, UTC.")
    progress: Progress
    result: dict[str, Any] | None = Field(description="Present when it succeeded.")
    error: RunError | None = Field(description="Present when it failed or was lost.")
    log_tail: list[str] = Field(description="Last lines of the log.")
    log_lines_left_out: int | None = Field(
        default=None, description="At least so many earlier lines are not shown; null when none."
    )
    metrics: list[dict[str, Any]] | None = Field(default=None, description="Training only: at most 50 points.")
    checkpoint_step: int | None = Field(
        default=None, description="Training only: step of the newest whole checkpoint, from which resume_run goes on."
    )
    resume_of: str | None = Field(default=None, description="The run this one continues.")
    orphaned: bool = Field(
        default=False, description="Whether the process that supervised it was killed and another took over."
    )
    forced: bool = Field(default=False, description="Whether it had to be killed.")
    resources: list[str] = Field(description="URIs to read more.")
    next: str = Field(description="What to call next.")
