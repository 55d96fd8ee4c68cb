"""Runs of fake workers, and the waiting for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tunesmith.runs import process
from tunesmith.runs.records import Run
from tunesmith.runs.states import TERMINAL
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace

HERE = Path(__file__).parent
WORKER = [sys.executable, str(HERE / "fake_worker.py")]
NEVER = "/nonexistent"


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(Workspace(tmp_path / "ws"))
    yield supervisor
    kill_all_of(supervisor.workspace)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], list[str]]]]:
    """Start another process with a server on the workspace, which queues runs; it and their ids are returned."""
    started: list[subprocess.Popen[bytes]] = []

    def start(jobs: list[dict[str, Any]], **settings: float) -> tuple[subprocess.Popen[bytes], list[str]]:
        server = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "fake_server.py"),
                str(tmp_path / "ws"),
                json.dumps(jobs),
                json.dumps(settings),
            ],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(server)
        assert server.stdout is not None
        return server, json.loads(server.stdout.readline() or b"[]")

    yield start
    for server in started:
        server.kill()
        server.wait(10)
        assert server.stdout is not None
        server.stdout.close()


def kill_all_of(workspace: Workspace) -> None:
    """End whatever a failed test left running."""
    for folder in workspace.runs.iterdir():
        process.kill_run(folder.name)
    for found in psutil.process_iter():
        try:
            if any(str(workspace.runs) in part for part in found.cmdline()):
                found.kill()
        except psutil.Error:
            continue


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.03)


def ended(runs: Supervisor, run_id: str, seconds: float = 30) -> Run:
    until(lambda: runs.row(run_id).state in TERMINAL, seconds)
    return runs.view(run_id)


def began(runs: Supervisor, run_id: str) -> None:
    """Wait for the worker to be at work, and for its pid to be written down."""
    until(lambda: (runs.folder(run_id) / "began").exists() and runs.row(run_id).worker_pid)


def is_gone(pid: int) -> bool:
    return process.started_at(pid) is None
