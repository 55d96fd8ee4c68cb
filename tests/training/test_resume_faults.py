"""What is done to training runs and their checkpoints, and what must come of it."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.training.conftest import (
    adapter_of,
    arguments_for,
    kill,
    largest_difference,
    make_rows,
    metrics_of,
    outcome,
    wait_for_step,
    wait_until,
)
from tunesmith import checkpoints

pytestmark = pytest.mark.slow


def kill_while_it_saves(process, run_dir) -> int:
    """Stop the worker with a checkpoint half written, and kill it. Returns that checkpoint's step.

    The process is frozen first and looked at then, so that nothing depends on how fast this one is.
    """
    root = run_dir / "checkpoints"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, (run_dir / "log.txt").read_text()[-3000:]
        if half := [step for step in checkpoints.steps(root) if not checkpoints.is_sealed(root / f"checkpoint-{step}")]:
            process.send_signal(signal.SIGSTOP)
            step = half[0]
            written = (root / f"checkpoint-{step}").is_dir()
            if step > 2 and written and not checkpoints.is_sealed(root / f"checkpoint-{step}"):
                kill(process)
                return step
            process.send_signal(signal.SIGCONT)
    raise AssertionError("no checkpoint was caught half written")


@pytest.mark.fault("F16")
def test_a_run_killed_while_it_saves_goes_on_from_the_newest_finished_checkpoint(
    workspace, new_dataset, tiny_base, start_worker
):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base)
    process, run_dir = start_worker(arguments)
    half = kill_while_it_saves(process, run_dir)
    resumed, resumed_dir = start_worker({**arguments, "resume_from": run_dir.name})
    result = outcome(resumed, resumed_dir)["result"]
    assert result["resumed_from"]["step"] == half - 2
    (line,) = result["checkpoints_set_aside"]
    assert f"checkpoint-{half} was set aside" in line
    assert "never finished" in line
    assert line in (resumed_dir / "log.txt").read_text()
    assert result["steps"] == 24


@pytest.mark.fault("F17")
@pytest.mark.parametrize("damage", [pytest.param("truncated", marks=pytest.mark.faults), "one byte"])
def test_a_damaged_checkpoint_is_never_used_and_is_named(workspace, new_dataset, tiny_base, start_worker, damage):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base)
    process, run_dir = start_worker(arguments)
    root = run_dir / "checkpoints"
    wait_until(process, run_dir, lambda: len(checkpoints.sealed_steps(root)) == 2)
    process.send_signal(signal.SIGSTOP)
    kill(process)
    older, newest = checkpoints.sealed_steps(root)[-2:]
    file = root / f"checkpoint-{newest}" / "optimizer.pt"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[:-100])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    resumed, resumed_dir = start_worker({**arguments, "resume_from": run_dir.name})
    result = outcome(resumed, resumed_dir)["result"]
    assert result["resumed_from"]["step"] == older
    named = [line for line in result["checkpoints_set_aside"] if f"checkpoint-{newest} " in line]
    assert len(named) == 1
    assert "optimizer.pt" in named[0]
    assert (root / f"checkpoint-{newest}.damaged1").is_dir() or not root.exists()


@pytest.mark.fault("F17")
def test_with_every_checkpoint_damaged_the_run_fails_and_says_so(workspace, new_dataset, tiny_base, start_worker):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base)
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 5)
    kill(process)
    for file in (run_dir / "checkpoints").rglob("adapter_model.safetensors"):
        file.write_bytes(b"\0" * file.stat().st_size)
    error = outcome(*start_worker({**arguments, "resume_from": run_dir.name}))["error"]
    assert error["code"] == "no_checkpoint"
    assert "was changed" in error["message"]
    assert "start_training" in error["next"]


def resume_after_random_kills(workspace, new_dataset, tiny_base, start_worker, moments, seed) -> None:
    draw = random.Random(seed)
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base, save_steps=3)
    expected = outcome(*start_worker(arguments))["result"]
    weights = adapter_of(workspace, expected)
    for _ in range(moments):
        step, pause = draw.randint(4, 24), draw.uniform(0, 0.03)
        process, run_dir = start_worker(arguments)
        wait_for_step(process, run_dir, step)
        time.sleep(pause)  # a random moment between two steps: the point of the test
        kill(process)
        if (run_dir / "result.json").exists():
            continue  # it was at its end already
        reached = max(line["step"] for line in metrics_of(run_dir))
        result = outcome(*start_worker({**arguments, "resume_from": run_dir.name}))["result"]
        where = f"seed {seed}, step {step}, {pause:.4f} s later"
        assert reached - result["resumed_from"]["step"] <= 3, where
        assert result["steps"] == expected["steps"], where
        assert largest_difference(adapter_of(workspace, result), weights) < 1e-6, where
        assert result["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5), where


@pytest.mark.fault("F25")
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_runs_killed_at_random_moments_end_like_an_undisturbed_one(workspace, new_dataset, tiny_base, start_worker):
    resume_after_random_kills(workspace, new_dataset, tiny_base, start_worker, moments=3, seed=25)


@pytest.mark.faults
@pytest.mark.fault("F25")
@pytest.mark.timeout(3600)
def test_runs_killed_at_20_random_moments_end_like_an_undisturbed_one(workspace, new_dataset, tiny_base, start_worker):
    resume_after_random_kills(workspace, new_dataset, tiny_base, start_worker, moments=20, seed=2025)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of a few MiB; unmounts what was mounted."""
    mounted: list[Path] = []

    def mount(folder: Path, mib: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(  # noqa: PLW1510 - refused is no error here
            ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tunesmith-test", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.fault("F15")
def test_a_disk_that_fills_up_while_a_checkpoint_is_saved_leaves_the_earlier_one_whole(
    workspace, new_dataset, tiny_base, start_worker, small_disk
):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base, save_steps=2, eval_steps=24)
    disk = workspace.root / "small"
    small_disk(disk, 8)
    process, run_dir = start_worker(arguments, before=lambda run_dir: (run_dir / "checkpoints").symlink_to(disk))
    wait_until(process, run_dir, lambda: checkpoints.newest_sealed_step(disk) is not None)
    process.send_signal(signal.SIGSTOP)
    (disk / "somebody-elses").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 65536))
    whole = checkpoints.sealed_steps(disk)
    process.send_signal(signal.SIGCONT)
    error = outcome(process, run_dir)["error"]
    assert error["code"] == "disk_full", error
    assert "checkpoint" in error["message"]
    (disk / "somebody-elses").unlink()
    newest = checkpoints.newest_sealed_step(disk)
    assert newest is not None
    assert newest >= whole[-1]
    assert checkpoints.steps(disk) == checkpoints.sealed_steps(disk)  # nothing half written is left
    result = outcome(*start_worker({**arguments, "resume_from": run_dir.name}))["result"]
    assert result["resumed_from"]["step"] == newest


@pytest.mark.fault("F4")
def test_a_run_over_its_memory_limit_fails_with_advice(workspace, new_dataset, tiny_base, start_worker):
    # Long rows, so that steps need memory; the limit comes when the first step is done.
    rows = make_rows(24, answer="The lamp shines. " * 24)
    arguments = arguments_for(workspace, new_dataset(rows), tiny_base, batch_size=8, gradient_accumulation=1, epochs=50)
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 1)
    used = int(re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (used // 4, used // 4))
    error = outcome(process, run_dir)["error"]
    assert error["code"] == "out_of_memory", error
    assert "Memory ran out" in error["message"]
    assert re.search(r"smaller|rank|batch_size", error["next"])
