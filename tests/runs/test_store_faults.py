"""Faults of the disk, the database, the clock and the files of a run. The ids are those of docs/reliability.md."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from tests.runs.conftest import NEVER, WORKER, began, ended, until
from tunesmith import database
from tunesmith.errors import StoreBusy, StoreCorrupt, StoreTooNew
from tunesmith.runs import process
from tunesmith.runs.supervisor import Supervisor
from tunesmith.server.app import build_server
from tunesmith.server.settings import Settings
from tunesmith.workspace import Workspace

OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]
DISK_FULL = Path(__file__).with_name("disk_full.py")


def skip_without_mounts(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode and done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"a file system of its own is not to be had here: {done.stderr.strip()[:100]}")


def on_a_small_disk(folder: Path, what: str, size: str) -> dict[str, Any]:
    """What disk_full.py prints, run on a file system of its own of that size."""
    folder.mkdir()
    inside = (
        f'mount -t tmpfs -o size={size} tmpfs "{folder}" && exec "{sys.executable}" "{DISK_FULL}" "{folder}" {what}'
    )
    done = subprocess.run([*OWN_MOUNTS, "sh", "-c", inside], capture_output=True, text=True, timeout=120, check=False)
    skip_without_mounts(done)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.fault("F15")
@pytest.mark.parametrize("what", ["log.txt", "checkpoints", "metrics.jsonl"])
def test_a_run_that_fills_the_disk_fails_as_that_and_the_server_answers(tmp_path: Path, what: str) -> None:
    seen = on_a_small_disk(tmp_path / "small", what, "1m")
    assert seen["run"]["state"] == "failed"
    assert seen["run"]["error"]["code"] == "disk_full"
    assert seen["integrity"] == "ok"
    assert seen["answers"]


@pytest.mark.fault("F15")
def test_a_run_that_cannot_be_written_down_is_refused_whole(tmp_path: Path) -> None:
    seen = on_a_small_disk(tmp_path / "small", "before", "1m")
    assert seen["errors"] == ["disk_full"]
    assert seen["run"]["state"] == "succeeded"  # once there was room again
    assert seen["folders"] == 1
    assert seen["integrity"] == "ok"
    assert seen["answers"]


@pytest.mark.fault("F18")
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"exit_code": "zero"}', b'{"exit_code": 1e999}', b"[" * 100_000]
)
def test_a_damaged_record_of_the_end_counts_as_none(runs: Supervisor, content: bytes) -> None:
    run_id = "run_" + "d" * 12
    folder = runs.workspace.runs / run_id
    folder.mkdir()
    (folder / process.ALIVE).touch()
    (folder / "exit.json").write_bytes(content)
    (folder / "result.json").write_bytes(content)
    runs.store.insert(run_id, "score", ("cpu0",))
    runs.store.claim_next()
    runs.store.begin(run_id, boot_id=process.boot_id())
    assert runs.view(run_id).state == "lost"


@pytest.mark.fault("F18")
@pytest.mark.parametrize(
    "result", [{"error": {"code": 5}}, {"error": "text"}, {"result": [1]}, {"result": None}, {"error": {}, "result": 3}]
)
def test_a_result_of_the_wrong_shape_is_no_result(runs: Supervisor, result: dict[str, Any]) -> None:
    command = [
        sys.executable,
        "-c",
        "import pathlib, sys; pathlib.Path(sys.argv[2], 'result.json').write_text(sys.argv[1])",
        json.dumps(result),
    ]
    run = ended(runs, runs.submit("score", command, {}))
    assert run.error is not None
    assert run.error.code == "no_result"


@pytest.mark.fault("F18")
def test_half_a_line_and_wrong_types_in_the_measurements_are_skipped(runs: Supervisor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run_id = runs.submit("train", WORKER, {"steps": 3, "until": str(gate)})
    began(runs, run_id)
    measured = runs.folder(run_id) / "metrics.jsonl"
    until(lambda: measured.exists() and len(measured.read_bytes().splitlines()) == 3)
    with (runs.folder(run_id) / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "lo')
    with (runs.folder(run_id) / "events.jsonl").open("ab") as file:
        file.write(b'{"fraction": "abc", "step": [], "message": {"a": 1}, "eta_s": NaN}\n{"message": "ha')
    view = runs.view(run_id, metrics=True)
    assert [point["step"] for point in view.metrics or []] == [1, 2, 3]
    assert view.state == "running"
    gate.touch()
    ended(runs, run_id)


@pytest.mark.fault("F19")
def test_a_damaged_database_is_named_and_kept(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    path = workspace.root / "tunesmith.db"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreCorrupt, match=r"tunesmith\.db"):
        Supervisor(workspace).submit("score", WORKER, {})
    assert path.read_bytes() == b"garbage" * 1000
    assert list(workspace.runs.iterdir()) == []

    async def talk() -> list[str]:
        async with Client(build_server(Settings(workspace=workspace.root))) as client:
            results = [
                await client.call_tool("list_runs", {}),
                await client.call_tool("get_run", {"run_id": "run_abcdefghijkl"}),
                await client.call_tool("list_datasets", {}),
            ]
            return [str(result.content[0]) for result in results]

    for text in anyio.run(talk):
        assert "[store_corrupt]" in text
        assert str(path) in text


@pytest.mark.fault("F19")
def test_a_run_ends_well_although_its_database_breaks_and_is_brought_back(runs: Supervisor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run_id = runs.submit("score", WORKER, {"until": str(gate)})
    began(runs, run_id)
    runs.store.database.close()
    with sqlite3.connect(runs.workspace.root / "tunesmith.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path = runs.workspace.root / "tunesmith.db"
    content = path.read_bytes()
    path.write_bytes(b"garbage" * 1000)
    gate.touch()
    until((runs.folder(run_id) / "exit.json").exists)
    path.write_bytes(content)
    assert ended(runs, run_id).state == "succeeded"


@pytest.mark.fault("F21")
def test_a_clock_set_back_by_an_hour_changes_neither_order_nor_the_sign_of_a_duration(
    runs: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "run_" + "e" * 12
    runs.store.insert(first, "score", ("cpu0",))
    runs.store.claim_next()
    earlier = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    monkeypatch.setattr("tunesmith.runs.store.utc_now", lambda: earlier)
    runs.store.begin(first, boot_id=process.boot_id())
    runs.store.transition(first, "failed", error={"code": "x", "message": "x", "next": "x"})
    second = "run_" + "f" * 12
    runs.store.insert(second, "score", ("cpu0",))
    runs.store.request_cancel(second)
    page, _, _ = runs.page(kind=None, state=None, limit=10, cursor=None)
    assert [run.run_id for run in page] == [second, first]
    for run in page:
        times = [moment for moment in (run.created_at, run.started_at, run.finished_at) if moment]
        assert times == sorted(times)


@pytest.mark.fault("F21")
def test_a_run_that_starts_is_not_given_up_because_the_clock_jumped(
    runs: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = "run_" + "g" * 12
    runs.store.insert(run_id, "score", ("cpu0",))
    runs.store.claim_next()
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert runs.row(run_id).state == "starting"


SERVE = [sys.executable, "-m", "tunesmith", "serve", "--workspace"]


def serve(workspace: Path, *before: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *SERVE, str(workspace)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_line_that_helps(done: subprocess.CompletedProcess[str], workspace: Path, code: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"[{code}]")
    assert str(workspace) in lines[0]
    assert "Next: " in lines[0]


@pytest.mark.fault("F22")
@pytest.mark.parametrize("kind", ["a file", "below a file", "somebody else's"])
def test_a_workspace_that_cannot_be_used_is_one_line_at_the_start(tmp_path: Path, kind: str) -> None:
    workspace, before = tmp_path / "ws", []
    if kind == "a file":
        workspace.touch()
    elif kind == "below a file":
        (tmp_path / "file").touch()
        workspace = tmp_path / "file" / "ws"
    else:
        workspace.mkdir(mode=0o555)
        if os.access(workspace, os.W_OK):  # we are root, who may write everything but what is mounted read-only
            mounting = f'mount -t tmpfs -o ro tmpfs "{workspace}" && exec "$@"'
            before = [*OWN_MOUNTS, "sh", "-c", mounting, "sh"]
    done = serve(workspace, *before)
    skip_without_mounts(done)
    assert done.returncode == 1
    assert_one_line_that_helps(done, workspace, "workspace_unusable")


@pytest.mark.fault("F22")
def test_a_workspace_of_a_newer_version_is_named_at_the_start_and_by_every_tool(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws").root
    with sqlite3.connect(workspace / "tunesmith.db") as connection:
        connection.execute(f"PRAGMA user_version={len(database.MIGRATIONS) + 1}")
    connection.close()
    assert_one_line_that_helps(serve(workspace), workspace, "store_too_new")


@pytest.mark.fault("F22")
def test_a_workspace_that_is_missing_is_made(tmp_path: Path) -> None:
    done = serve(tmp_path / "not" / "there" / "yet")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "not" / "there" / "yet" / "runs").is_dir()


@pytest.mark.fault("F22")
def test_a_workspace_of_a_newer_version_is_not_written(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    path = workspace.root / "tunesmith.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={len(database.MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match="newer"):
        Supervisor(workspace).submit("score", WORKER, {})
    assert list(workspace.runs.iterdir()) == []
    assert path.read_bytes() == before


def hold_the_write_lock(workspace: Workspace, release: Path) -> Callable[[], None]:
    """Take the database's write lock in another process; returns what gives it back."""
    script = (
        "import pathlib, sqlite3, sys, time; connection = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "connection.execute('BEGIN IMMEDIATE'); print('held', flush=True);"
        "[time.sleep(0.02) for _ in iter(lambda: pathlib.Path(sys.argv[2]).exists(), True)]"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(workspace.root / "tunesmith.db"), str(release)], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"

    def give_back() -> None:
        release.touch()
        holder.wait(10)
        assert holder.stdout is not None
        holder.stdout.close()

    return give_back


@pytest.mark.fault("F24")
def test_a_held_write_lock_is_a_retryable_error_without_half_a_transition(
    runs: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.5)
    run_id = runs.submit("score", WORKER, {"until": NEVER})
    began(runs, run_id)
    patient = Supervisor(Workspace(runs.workspace.root))  # opened with the short patience
    patient.row(run_id)
    give_back = hold_the_write_lock(runs.workspace, tmp_path / "release")
    with pytest.raises(StoreBusy, match="Make the same call again"):
        patient.cancel(run_id)
    with pytest.raises(StoreBusy):
        patient.submit("score", WORKER, {})
    assert patient.view(run_id).state == "running"  # reading needs no lock
    assert len(list(runs.workspace.runs.iterdir())) == 1
    give_back()
    patient.cancel(run_id)
    assert ended(runs, run_id).state == "cancelled"


@pytest.mark.fault("F24")
def test_a_run_that_ends_while_the_database_is_held_for_15_seconds_ends_well(runs: Supervisor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run_id = runs.submit("score", WORKER, {"until": str(gate)}, slots=("device0",))
    waiting = runs.submit("score", WORKER, {}, slots=("device0",))
    began(runs, run_id)
    give_back = hold_the_write_lock(runs.workspace, tmp_path / "release")
    timer = threading.Timer(15, give_back)
    timer.start()
    gate.touch()
    until(lambda: runs.store.get(waiting).state == "succeeded", 60)
    timer.join()
    assert runs.store.events(run_id)[-1] == ("running", "succeeded")
