"""Runs outlive servers, end in one state, and are never two where one was asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tunesmith.errors import Conflict, InvalidArgument, NotFound, StoreCorrupt
from tunesmith.runs import log
from tunesmith.runs.records import Run
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace

WORKER = [sys.executable, str(Path(__file__).parent / "fake_worker.py")]


@pytest.fixture
def runs(tmp_path: Path) -> Supervisor:
    return Supervisor(Workspace(tmp_path / "ws"))


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.03)


def ended(runs: Supervisor, run_id: str) -> Run:
    until(lambda: runs.row(run_id).state in ("succeeded", "failed", "cancelled", "lost"))
    return runs.view(run_id)


def began(runs: Supervisor, run_id: str) -> None:
    until(lambda: (runs.folder(run_id) / "began").exists() and runs.row(run_id).worker_pid)


def test_a_run_that_ends_well_has_its_result_log_and_progress(runs: Supervisor) -> None:
    run = ended(runs, runs.submit("score", WORKER, {"steps": 3}))
    assert run.state == "succeeded"
    assert run.result == {"counted": 3}
    assert run.log_tail == ["step 1", "step 2", "step 3"]
    assert run.progress.fraction == 1.0
    assert runs.store.events(run.run_id) == [
        (None, "queued"),
        ("queued", "starting"),
        ("starting", "running"),
        ("running", "succeeded"),
    ]


def test_a_failed_run_says_what_happened_and_what_to_do(runs: Supervisor) -> None:
    run = ended(runs, runs.submit("score", WORKER, {"fail": True}))
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.code == "bad_input"
    assert run.next == "Ask for something else."


def test_a_killed_worker_fails_with_the_memory_hint(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"until": "/nonexistent"})
    began(runs, run_id)
    os.kill(runs.row(run_id).worker_pid or 0, signal.SIGKILL)
    run = ended(runs, run_id)
    assert run.error is not None
    assert run.error.code == "killed_by_system"


def test_a_second_training_waits_for_the_first_and_names_it(runs: Supervisor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = runs.submit("train", WORKER, {"until": str(gate)}, slot_class="device")
    second = runs.submit("train", WORKER, {}, slot_class="device")
    began(runs, first)
    waiting = runs.view(second)
    assert waiting.state == "queued"
    assert first in waiting.progress.message
    gate.touch()
    assert ended(runs, first).state == "succeeded"
    assert ended(runs, second).state == "succeeded"


def test_a_run_survives_the_server_that_started_it_and_the_queue_moves_without_one(
    runs: Supervisor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = (
        "import json, sys; from pathlib import Path; from tunesmith.workspace import Workspace;"
        "from tunesmith.runs.supervisor import Supervisor; runs = Supervisor(Workspace(Path(sys.argv[1])));"
        "command, gate = json.loads(sys.argv[2]), sys.argv[3];"
        "print(*[runs.submit('train', command, {'until': gate}, slot_class='device') for _ in range(2)], flush=True);"
        "import time; time.sleep(600)"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(runs.workspace.root), json.dumps(WORKER), str(gate)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout is not None
    first, second = server.stdout.readline().decode().split()
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(10)
    server.stdout.close()
    gate.touch()
    assert ended(runs, first).state == "succeeded"
    assert ended(runs, second).state == "succeeded"


def test_the_same_idempotency_key_gives_the_same_run(runs: Supervisor) -> None:
    first = runs.submit("score", WORKER, {}, idempotency_key="once")
    assert runs.submit("score", WORKER, {}, idempotency_key="once") == first
    assert len(list(runs.workspace.runs.iterdir())) == 1
    ended(runs, first)


def test_cancelling_ends_a_running_run_and_leaves_an_ended_one_as_it_is(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"until": "/nonexistent"})
    began(runs, run_id)
    runs.cancel(run_id)
    assert ended(runs, run_id).state == "cancelled"
    with pytest.raises(Conflict, match="already ended"):
        runs.cancel(run_id)
    assert [after for _, after in runs.store.events(run_id)].count("cancelled") == 1


def test_cancelling_a_queued_run_means_it_never_starts(runs: Supervisor) -> None:
    first = runs.submit("train", WORKER, {"until": "/nonexistent"}, slot_class="device")
    second = runs.submit("train", WORKER, {}, slot_class="device")
    runs.cancel(second)
    began(runs, first)
    runs.cancel(first)
    ended(runs, first)
    assert runs.row(second).state == "cancelled"
    assert not (runs.folder(second) / "log.txt").exists()


def test_a_worker_that_ignores_term_is_killed_after_the_grace(
    runs: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.runs.supervisor.GRACE_S", 0.3)
    # It never looks at the wish to stop: a sleep of its own, TERM ignored.
    run_id = runs.submit(
        "score",
        [
            sys.executable,
            "-c",
            "import signal, sys, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "pathlib.Path(sys.argv[1], 'began').touch(); time.sleep(600)",
        ],
        {},
    )
    began(runs, run_id)
    runs.cancel(run_id)
    run = ended(runs, run_id)
    assert run.state == "cancelled"
    assert run.forced


def test_when_shim_and_worker_are_killed_the_run_is_lost_and_not_restarted(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"until": "/nonexistent"})
    began(runs, run_id)
    row = runs.row(run_id)
    os.kill(row.shim_pid or 0, signal.SIGKILL)
    os.kill(row.worker_pid or 0, signal.SIGKILL)
    assert ended(runs, run_id).state == "lost"


def test_a_child_that_outlives_its_worker_is_reaped(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"child": True})
    assert ended(runs, run_id).state == "succeeded"
    child = int((runs.folder(run_id) / "child.pid").read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_malformed_and_unknown_ids_are_told_apart(runs: Supervisor) -> None:
    with pytest.raises(InvalidArgument, match="is a dataset id"):
        runs.row("ds_abcdefghijkl")
    with pytest.raises(InvalidArgument, match="is not an id"):
        runs.row("../../etc")
    with pytest.raises(NotFound):
        runs.row("run_abcdefghijkl")


def test_pages_are_newest_first_and_complete(runs: Supervisor) -> None:
    ids = [runs.submit("score", WORKER, {}) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor, total = runs.page(kind=None, state=None, limit=2, cursor=cursor)
        assert total == 5
        seen += [run.run_id for run in page]
        if cursor is None:
            break
    assert seen == ids[::-1]
    with pytest.raises(InvalidArgument, match="cursor"):
        runs.page(kind=None, state=None, limit=2, cursor="'; drop")
    for run_id in ids:
        ended(runs, run_id)


def test_a_damaged_database_is_named_and_kept(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    (workspace.root / "tunesmith.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreCorrupt, match=r"tunesmith\.db"):
        Supervisor(workspace).submit("score", WORKER, {})
    assert (workspace.root / "tunesmith.db").read_bytes().startswith(b"garbage")
    assert list(workspace.runs.iterdir()) == []


def test_a_log_is_read_in_bounded_clean_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    noise = b"\x1b[31mred\x1b[0m\rdone hf_abcdefghijklmnopqrstuvwx\n"
    path.write_bytes(b"x" * 200_000 + b"\n" + noise)
    text, following, size = log.read_bytes(path)
    assert len(text) <= log.READ_LIMIT
    assert following == size
    lines, _ = log.tail(path, 1)
    assert lines == ["done [redacted]"]
    assert log.read_bytes(path, 0)[1] == log.READ_LIMIT
