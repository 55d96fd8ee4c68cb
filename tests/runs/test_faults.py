"""Faults of processes, each injected for real: what a run is afterwards. The ids are those of docs/reliability.md."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from tests.runs.conftest import NEVER, WORKER, began, ended, is_gone, until
from tunesmith.errors import Conflict
from tunesmith.runs import log, process
from tunesmith.runs.shim import AdoptedWorker
from tunesmith.runs.supervisor import Supervisor
from tunesmith.server.app import build_server
from tunesmith.server.settings import Settings

StartServer = Callable[..., tuple[subprocess.Popen[bytes], list[str]]]


def kill(pid: int | None, number: signal.Signals = signal.SIGKILL) -> None:
    assert pid is not None
    os.kill(pid, number)


@pytest.mark.fault("F1")
def test_a_run_goes_on_when_its_server_is_killed_and_the_next_server_reads_on_where_the_first_was(
    runs: Supervisor, start_server: StartServer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    server, [run_id] = start_server([{"args": {"steps": 60, "pause_at": 20, "until": str(gate)}}])
    path = runs.folder(run_id) / "log.txt"
    until(lambda: "step 20\n" in log.read(path, 0).text)
    first = log.read(path, 0)
    server.kill()
    server.wait(10)

    async def talk() -> tuple[str, str]:
        another = build_server(Settings(workspace=runs.workspace.root))
        async with Client(another) as client:
            seen = (await client.call_tool("get_run", {"run_id": run_id})).structured_content or {}
            gate.touch()
            last = (await client.call_tool("get_run", {"run_id": run_id, "wait_s": 30})).structured_content or {}
            return seen["state"], last["state"]

    assert anyio.run(talk) == ("running", "succeeded")
    rest = log.read(path, first.end)
    assert (first.text + rest.text).split("\n") == [*(f"step {number + 1}" for number in range(60)), ""]


@pytest.mark.fault("F2", "F11")
def test_a_run_goes_on_and_the_queue_moves_when_the_servers_whole_group_is_ended_as_hosts_do(
    runs: Supervisor, start_server: StartServer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = {"kind": "train", "args": {"until": str(gate)}, "slots": ["device0"]}
    server, [first, second] = start_server([job, job])
    began(runs, first)
    os.killpg(server.pid, signal.SIGTERM)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait(10)
    assert runs.store.get(first).state == "running"
    gate.touch()
    # Only the database is looked at: no reader moves the queue here.
    until(lambda: runs.store.get(second).state == "succeeded")
    assert runs.store.get(first).state == "succeeded"


@pytest.mark.fault("F3")
def test_a_killed_worker_fails_with_the_memory_hint_frees_its_slot_and_can_be_resumed(runs: Supervisor) -> None:
    run_id = runs.submit("train", WORKER, {"until": NEVER}, slots=("device0",))
    waiting = runs.submit("train", WORKER, {}, slots=("device0",))
    began(runs, run_id)
    checkpoint = runs.folder(run_id) / "checkpoints" / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMPLETE.json").write_text('{"step": 7, "files": {}}')
    kill(runs.row(run_id).worker_pid)
    run = ended(runs, run_id)
    assert run.error is not None
    assert run.error.code == "killed_by_system"
    assert "memory" in run.error.message
    assert run.checkpoint_step == 7
    assert f'resume_run(run_id="{run_id}")' in run.next
    assert ended(runs, waiting).state == "succeeded"


@pytest.mark.fault("F4")
def test_a_worker_that_exceeds_a_memory_limit_fails_with_advice(runs: Supervisor) -> None:
    run = ended(runs, runs.submit("score", WORKER, {"eat_memory": True}))
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.code == "out_of_memory"
    assert "smaller" in run.error.next


@pytest.mark.fault("F5")
def test_a_run_whose_shim_is_killed_is_flagged_taken_over_and_ends_with_its_result(
    runs: Supervisor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run_id = runs.submit("train", WORKER, {"until": str(gate)}, slots=("device0",))
    waiting = runs.submit("train", WORKER, {}, slots=("device0",))
    began(runs, run_id)
    before = runs.row(run_id)
    kill(before.shim_pid)
    until(lambda: runs.view(run_id).orphaned)
    until(lambda: process.is_locked(runs.folder(run_id), process.SHIM))
    until(lambda: runs.store.get(run_id).shim_pid != before.shim_pid)
    assert runs.view(run_id).state == "running"
    gate.touch()
    # Only the database is looked at: the shim that took over ends the run and moves the queue.
    until(lambda: runs.store.get(waiting).state == "succeeded")
    run = runs.view(run_id)
    assert run.state == "succeeded"
    assert run.result == {"counted": 1}


@pytest.mark.fault("F5")
def test_a_run_whose_shim_is_killed_is_lost_when_its_worker_leaves_no_result(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"until": NEVER, "child": "in its own session"})
    began(runs, run_id)
    row = runs.row(run_id)
    kill(row.shim_pid)
    until(lambda: runs.view(run_id).orphaned)
    kill(row.worker_pid)
    assert ended(runs, run_id).state == "lost"
    child = int((runs.folder(run_id) / "child.pid").read_text())
    until(lambda: is_gone(child))


@pytest.mark.fault("F5")
@pytest.mark.parametrize("pid", [None, 2**22 + 1])
def test_an_orphan_has_not_ended_while_its_lock_is_held_by_a_process_that_cannot_be_told(
    tmp_path: Path, pid: int | None
) -> None:
    lock = process.take_lock(tmp_path, process.ALIVE)
    assert lock is not None
    worker = AdoptedWorker(tmp_path, pid, 1.0)
    assert not worker.ended(0.3)
    os.close(lock)
    assert worker.ended(10)


@pytest.mark.fault("F5", "F12")
@pytest.mark.parametrize("stubborn", [False, True])
def test_an_orphaned_run_can_be_cancelled(runs: Supervisor, monkeypatch: pytest.MonkeyPatch, stubborn: bool) -> None:
    monkeypatch.setattr("tunesmith.runs.supervisor.GRACE_S", 0.5)
    run_id = runs.submit("score", WORKER, {"until": NEVER, "ignore_term": stubborn})
    began(runs, run_id)
    worker = runs.row(run_id).worker_pid
    kill(runs.row(run_id).shim_pid)
    until(lambda: runs.view(run_id).orphaned)
    runs.cancel(run_id)
    run = ended(runs, run_id)
    assert run.state == "cancelled"
    assert run.forced is stubborn
    assert worker is not None
    until(lambda: is_gone(worker))


@pytest.mark.fault("F6")
def test_when_shim_and_worker_are_killed_the_run_is_lost_and_not_restarted(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"until": NEVER})
    began(runs, run_id)
    row = runs.row(run_id)
    # Stopped first, or the shim would see its worker die.
    kill(row.shim_pid, signal.SIGSTOP)
    kill(row.worker_pid)
    kill(row.shim_pid)
    run = ended(runs, run_id)
    assert run.state == "lost"
    assert [after for _, after in runs.store.events(run_id)] == ["queued", "starting", "running", "lost"]
    assert run.log_tail == ["step 1"]


@pytest.mark.fault("F6", "F7")
def test_after_a_reboot_the_run_is_lost_and_whoever_has_its_pid_now_is_left_alone(runs: Supervisor) -> None:
    run_id = "run_" + "b" * 12
    (runs.workspace.runs / run_id).mkdir()
    (runs.workspace.runs / run_id / process.ALIVE).touch()
    runs.store.insert(run_id, "score", ("cpu0",))
    assert runs.store.claim_next() is not None
    with subprocess.Popen(["sleep", "600"]) as foreigner:
        started = process.started_at(foreigner.pid)
        assert started is not None
        # The same pid: once of another boot, and of a process that started at another time.
        runs.store.begin(
            run_id, boot_id="another boot", shim_pid=foreigner.pid, shim_started=started, worker_pid=foreigner.pid
        )
        runs.store.record(run_id, worker_started=started - 5)
        assert not process.send(foreigner.pid, started - 5, signal.SIGTERM)
        with pytest.raises(Conflict, match="lost"):
            runs.cancel(run_id)
        assert runs.row(run_id).state == "lost"
        assert foreigner.poll() is None
        foreigner.kill()


@pytest.mark.fault("F7")
def test_cancelling_signals_no_foreign_process_that_has_a_runs_pid(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"until": NEVER})
    began(runs, run_id)
    with subprocess.Popen(["sleep", "600"]) as foreigner:
        started = process.started_at(foreigner.pid)
        assert started is not None
        runs.store.record(run_id, shim_pid=foreigner.pid, shim_started=started - 60)
        runs.cancel(run_id)
        assert ended(runs, run_id).state == "cancelled"
        assert foreigner.poll() is None
        foreigner.kill()


@pytest.mark.fault("F8")
def test_a_run_whose_server_died_between_claim_and_spawn_fails_after_the_deadline_and_never_starts(
    runs: Supervisor, start_server: StartServer
) -> None:
    server, [run_id] = start_server([], dies_before_spawn=1, spawn_deadline_s=1)
    server.kill()
    server.wait(10)
    run = ended(runs, run_id)
    assert run.error is not None
    assert run.error.code == "spawn_failed"
    assert [after for _, after in runs.store.events(run_id)] == ["queued", "starting", "failed"]
    # A shim that comes too late finds a run that has ended, and starts nothing.
    assert runs.store.begin(run_id, shim_pid=1) is False


@pytest.mark.fault("F9")
def test_the_same_key_from_two_servers_at_once_is_one_run(runs: Supervisor, start_server: StartServer) -> None:
    found: list[str] = []
    job = {"args": {"steps": 1}, "idempotency_key": "once"}
    threads = [threading.Thread(target=lambda: found.extend(start_server([job] * 5)[1])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 10
    assert len(set(found)) == 1
    assert ended(runs, found[0]).state == "succeeded"
    assert [folder.name for folder in runs.workspace.runs.iterdir()] == [found[0]]
    assert (runs.folder(found[0]) / "log.txt").read_text().count("step 1") == 1


@pytest.mark.fault("F9")
def test_a_key_that_comes_with_another_request_is_refused(runs: Supervisor) -> None:
    first = runs.submit("score", WORKER, {}, idempotency_key="once", request={"dataset": "a"})
    assert runs.submit("score", WORKER, {}, idempotency_key="once", request={"dataset": "a"}) == first
    with pytest.raises(Conflict, match=first):
        runs.submit("score", WORKER, {}, idempotency_key="once", request={"dataset": "b"})
    ended(runs, first)
    assert len(list(runs.workspace.runs.iterdir())) == 1


@pytest.mark.fault("F12")
def test_cancelling_a_running_run_ends_it_and_an_ended_one_stays_as_it_is(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"until": NEVER})
    began(runs, run_id)
    runs.cancel(run_id)
    run = ended(runs, run_id)
    assert run.state == "cancelled"
    assert not run.forced
    with pytest.raises(Conflict, match="already ended"):
        runs.cancel(run_id)
    assert [after for _, after in runs.store.events(run_id)].count("cancelled") == 1


@pytest.mark.fault("F12")
def test_cancelling_a_queued_run_means_it_never_starts(runs: Supervisor) -> None:
    first = runs.submit("train", WORKER, {"until": NEVER}, slots=("device0",))
    second = runs.submit("train", WORKER, {}, slots=("device0",))
    runs.cancel(second)
    began(runs, first)
    runs.cancel(first)
    ended(runs, first)
    assert runs.row(second).state == "cancelled"
    assert not (runs.folder(second) / "log.txt").exists()


@pytest.mark.fault("F12")
def test_a_run_cancelled_while_it_starts_does_no_work(runs: Supervisor) -> None:
    row = runs.store.insert("run_" + "c" * 12, "score", ("cpu0",))
    runs.store.claim_next()
    assert runs.store.request_cancel(row.run_id) == "starting"
    assert runs.store.begin(row.run_id, shim_pid=1) is False
    assert runs.row(row.run_id).state == "cancelled"


@pytest.mark.fault("F13")
def test_a_worker_that_ignores_term_is_killed_after_the_grace(
    runs: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.runs.supervisor.GRACE_S", 0.3)
    run_id = runs.submit("score", WORKER, {"until": NEVER, "ignore_term": True})
    began(runs, run_id)
    runs.cancel(run_id)
    run = ended(runs, run_id)
    assert run.state == "cancelled"
    assert run.forced


@pytest.mark.fault("F13")
def test_a_cancel_that_races_the_natural_end_gives_exactly_one_end(runs: Supervisor, tmp_path: Path) -> None:
    for attempt in range(4):
        gate = tmp_path / f"gate{attempt}"
        run_id = runs.submit("score", WORKER, {"until": str(gate)})
        began(runs, run_id)
        gate.touch()
        time.sleep(0.04 * attempt)  # not a wait for anything: a different moment each time
        try:
            runs.cancel(run_id)
        except Conflict:
            pass
        assert ended(runs, run_id).state in ("cancelled", "succeeded")
        ends = [after for _, after in runs.store.events(run_id) if after not in ("queued", "starting", "running")]
        assert ends in (["succeeded"], ["cancelling", "cancelled"])


@pytest.mark.fault("F14")
@pytest.mark.parametrize("child", ["in the group", "in its own session"])
def test_a_child_that_outlives_its_worker_is_killed_and_the_lock_is_free(runs: Supervisor, child: str) -> None:
    run_id = runs.submit("score", WORKER, {"child": child})
    assert ended(runs, run_id).state == "succeeded"
    pid = int((runs.folder(run_id) / "child.pid").read_text())
    until(lambda: is_gone(pid))
    until(lambda: not process.is_locked(runs.folder(run_id), process.ALIVE))


def test_a_worker_that_somebody_else_stops_is_no_success(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {"until": NEVER})
    began(runs, run_id)
    kill(runs.row(run_id).worker_pid, signal.SIGTERM)
    run = ended(runs, run_id)
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.code == "interrupted"


def test_a_shim_leaves_no_process_behind(runs: Supervisor) -> None:
    run_id = runs.submit("score", WORKER, {})
    ended(runs, run_id)
    shim = runs.row(run_id).shim_pid
    assert shim is not None
    until(lambda: is_gone(shim))
    assert process.processes_of(run_id) == []
    assert json.loads((runs.folder(run_id) / "exit.json").read_text())["exit_code"] == 0


@pytest.mark.fault("F8")
def test_the_folder_of_a_run_that_was_never_queued_goes_in_time_and_no_other(
    runs: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = runs.submit("score", WORKER, {})
    ended(runs, done)
    for name, files in (("run_" + "x" * 12, ["spec.json"]), ("run_" + "y" * 12, ["spec.json", "log.txt"])):
        (runs.workspace.runs / name).mkdir()
        for file in files:
            (runs.workspace.runs / name / file).touch()
    runs.discard_unqueued()
    assert len(list(runs.workspace.runs.iterdir())) == 3  # it may be about to be queued
    monkeypatch.setattr("tunesmith.runs.supervisor.ABANDONED_S", -1.0)
    runs.discard_unqueued()
    assert {folder.name for folder in runs.workspace.runs.iterdir()} == {done, "run_" + "y" * 12}


def test_what_is_no_run_may_lie_among_the_runs(runs: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.runs.supervisor.ABANDONED_S", -1.0)
    (runs.workspace.runs / ".DS_Store").touch()
    (runs.workspace.runs / "run_notes.txt").touch()
    (runs.workspace.runs / "mine").mkdir()
    runs.discard_unqueued()
    assert {path.name for path in runs.workspace.runs.iterdir()} == {".DS_Store", "run_notes.txt", "mine"}


def test_a_run_that_an_earlier_version_queued_runs_and_keeps_its_key(
    runs: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as held:
        held.setattr(runs, "launch", lambda: None)
        run_id = runs.submit("score", WORKER, {}, idempotency_key="once")
    spec = runs.spec(run_id)
    del spec["environment"]
    (runs.folder(run_id) / "spec.json").write_text(json.dumps(spec))
    assert runs.submit("score", WORKER, {}, idempotency_key="once", request={"dataset": "a"}) == run_id
    assert ended(runs, run_id).state == "succeeded"


def test_a_run_whose_folder_is_taken_away_keeps_its_slot_until_its_processes_are_gone(
    runs: Supervisor, tmp_path: Path
) -> None:
    run_id = runs.submit("score", WORKER, {"until": str(tmp_path / "gate")})
    began(runs, run_id)
    runs.folder(run_id).rename(tmp_path / "elsewhere")
    assert runs.row(run_id).state == "running"
    runs.cancel(run_id)
    assert ended(runs, run_id).state == "cancelled"


def test_a_lock_that_may_not_be_opened_leaves_the_processes_to_be_believed(
    runs: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = runs.submit("score", WORKER, {"until": str(tmp_path / "gate")})
    began(runs, run_id)
    real_open = os.open

    def refusing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)

    with monkeypatch.context() as another_user:
        another_user.setattr(os, "open", refusing)
        assert runs.row(run_id).state == "running"
    (tmp_path / "gate").touch()
    assert ended(runs, run_id).state == "succeeded"


def test_nothing_is_imported_from_the_folder_that_a_server_was_started_in(
    runs: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    code = (
        "import json, pathlib, subprocess, sys; subprocess.run([sys.executable, '-c', 'import json'], check=True);"
        "pathlib.Path(sys.argv[1], 'result.json').write_text(json.dumps({'result': {}}))"
    )
    assert ended(runs, runs.submit("score", [sys.executable, "-c", code], {})).state == "succeeded"
