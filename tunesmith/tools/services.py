"""What tools are given: the workspace, its runs, and how a tool is described."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, Field

from tunesmith.models.warm import WarmServers
from tunesmith.runs.records import Run
from tunesmith.runs.supervisor import Supervisor
from tunesmith.runs.watching import Watcher
from tunesmith.work import worker_command
from tunesmith.workspace import Workspace

PAGE_BUDGET = 17_000  # characters: a result holds at most 20,000

WAIT = Field(ge=0, le=50, description="Seconds to wait; then it runs on.")
LIMIT = Field(ge=1, le=100, description="Entries a page.")
CURSOR = Field(max_length=200, description="next_cursor before.")
DATASET = Field(max_length=60, description="A dataset.")
RUN = Field(max_length=60, description="A run.")
MODEL = Field(
    min_length=1,
    max_length=500,
    description="run_…, mdl_…, embedded, ollama:NAME, openai:NAME, openai:NAME@URL, a Hub id or a folder.",
)
TRAINED = Field(max_length=60, description="A trained model or the run that made it.")


@dataclass(frozen=True)
class Services:
    """Everything a tool needs."""

    workspace: Workspace
    runs: Supervisor
    watcher: Watcher
    ollama_host: str | None
    warm: WarmServers = field(default_factory=WarmServers)


@dataclass(frozen=True)
class ToolSpec:
    """A tool and its hints for hosts."""

    fn: Callable[..., Any]
    title: str
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False


def fitting(items: Sequence[BaseModel]) -> int:
    """How many items of a page a result has room for, one at least; the cursor must then be of so many."""
    used = 0
    for kept, item in enumerate(items):
        used += len(json.dumps(item.model_dump(mode="json"), ensure_ascii=False))
        if kept and used > PAGE_BUDGET:
            return kept
    return len(items)


async def wait_for(services: Services, run_id: str, wait_s: float, **view: Any) -> Run:
    """The run, after it has ended or `wait_s` has passed, whichever is first."""
    if wait_s > 0:
        await services.watcher.wait_until_ended(run_id, wait_s)
    return await anyio.to_thread.run_sync(lambda: services.runs.view(run_id, **view))


async def start(services: Services, kind: str, room: str, args: dict[str, Any], wait_s: float, **options: Any) -> Run:
    """Submit a run of a room's worker and wait for it a while."""
    command = worker_command(room)
    await anyio.to_thread.run_sync(services.warm.release)  # the run may need the memory
    run_id = await anyio.to_thread.run_sync(lambda: services.runs.submit(kind, command, args, **options))
    return await wait_for(services, run_id, wait_s)
