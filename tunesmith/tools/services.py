"""What tools are given: the workspace, its runs, and how a tool is described."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from pydantic import Field

from tunesmith.runs.records import Run
from tunesmith.runs.states import TERMINAL
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace

POLL_FIRST_S, POLL_MOST_S = 0.05, 0.5

WAIT = Field(ge=0, le=50, description="Seconds to wait; then it runs on.", examples=[20])
LIMIT = Field(ge=1, le=100, description="Entries a page.", examples=[20])
CURSOR = Field(max_length=200, description="next_cursor before.", examples=["40"])
DATASET = Field(max_length=60, description="A dataset.", examples=["ds_abcdefghijkl"])
RUN = Field(max_length=60, description="A run.", examples=["run_abcdefghijkl"])
MODEL = Field(
    min_length=1,
    max_length=500,
    description="run_…, mdl_…, embedded, ollama:NAME, openai:NAME, openai:NAME@URL, a Hub id or a folder.",
    examples=["mdl_abcdefghijkl"],
)
TRAINED = Field(max_length=60, description="A trained model or the run that made it.", examples=["run_abcdefghijkl"])


@dataclass(frozen=True)
class Services:
    """Everything a tool needs."""

    workspace: Workspace
    runs: Supervisor
    ollama_host: str | None


@dataclass(frozen=True)
class ToolSpec:
    """A tool and its hints for hosts."""

    fn: Callable[..., Any]
    title: str
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False


async def wait_for(services: Services, run_id: str, wait_s: float, **view: Any) -> Run:
    """The run, after it has ended or `wait_s` has passed, whichever is first."""
    deadline = time.monotonic() + wait_s
    pause = POLL_FIRST_S
    while True:
        row = await anyio.to_thread.run_sync(services.runs.row, run_id)
        left = deadline - time.monotonic()
        if row.state in TERMINAL or left <= 0:
            return await anyio.to_thread.run_sync(lambda: services.runs.view(run_id, **view))
        await anyio.sleep(min(pause, left))
        pause = min(pause * 1.5, POLL_MOST_S)


async def start(services: Services, kind: str, room: str, args: dict[str, Any], wait_s: float, **options: Any) -> Run:
    """Submit a run of a room's worker and wait for it a while."""
    command = [sys.executable, "-m", f"tunesmith.{room}.worker"]
    run_id = await anyio.to_thread.run_sync(lambda: services.runs.submit(kind, command, args, **options))
    return await wait_for(services, run_id, wait_s)
