"""Several processes make the training that one makes: the same steps, one run, one end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.training.conftest import (
    adapter_of,
    arguments_for,
    curve_of,
    kill,
    largest_difference,
    make_rows,
    metrics_of,
    outcome,
    wait_for_step,
)
from tunesmith import checkpoints
from tunesmith.runs.supervisor import Supervisor
from tunesmith.training.injection import VARIABLE
from tunesmith.work import EXIT_CANCELLED, EXIT_FAILED, worker_command

# 23 rows to train on, 8 in a step: in the last step of an epoch one of two processes has rows and the other none.
ROWS = 26
ALONE = {"epochs": 2, "dropout": 0.0, "batch_size": 8, "gradient_accumulation": 1}
TOGETHER = {**ALONE, "processes": 2, "batch_size": 4}
LONG = {**TOGETHER, "epochs": 60, "save_steps": 5, "eval_steps": 7}
FULL = {"method": "full", "learning_rate": 1e-3, "rank": None, "dropout": None}
# A worker that starts another process, says which, and hangs.
HANGS = """
import sys, threading, types
from pathlib import Path
from tunesmith.training import parallel
parallel.HANG_S = 0.1
others = parallel.Others(types.SimpleNamespace(run_dir=Path(sys.argv[1])),
                         types.SimpleNamespace(processes=2, engine="transformers"))
print(others._children[1].pid, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def finished(workspace, tiny_base, new_dataset, start_worker):
    """Run a worker to its end: its result and its folder."""

    def run(recipe, rows=None, before=None, resume_from=None, **environment):
        dataset_id = rows or new_dataset(make_rows(ROWS))
        args = arguments_for(workspace, dataset_id, tiny_base, **recipe)
        if resume_from:
            args["resume_from"] = resume_from
        process, run_dir = start_worker(args, before, **environment)
        left = outcome(process, run_dir)
        log = (run_dir / "log.txt").read_text(encoding="utf-8")
        assert "result" in left, log
        assert not list(run_dir.glob("process*")), "what only its processes needed is gone"
        return left["result"], run_dir, log

    return run


@pytest.fixture
def long_run(workspace, tiny_base, new_dataset, start_worker):
    """Start a training of two processes and wait for some steps: the worker, the other process, the folder."""

    def start(**changed):
        rows = new_dataset(make_rows(ROWS))
        process, run_dir = start_worker(arguments_for(workspace, rows, tiny_base, **{**LONG, **changed}))
        wait_for_step(process, run_dir, 6)
        (other,) = psutil.Process(process.pid).children()
        return process, other, run_dir

    return start


def rounding(result):
    """Of losses and weights. On a card the sums are made in 16 bits."""
    return 1e-4 if result["device"] == "cpu" else 2e-2


def gone(process: psutil.Process, seconds: float = 10) -> bool:
    return not psutil.wait_procs([process], timeout=seconds)[1]


def test_two_processes_make_the_steps_of_one(workspace, new_dataset, finished):
    rows = new_dataset(make_rows(ROWS))
    one, alone, _ = finished(ALONE, rows)
    two, together, log = finished(TOGETHER, rows)
    assert curve_of(together) == pytest.approx(curve_of(alone), abs=rounding(one))
    assert largest_difference(adapter_of(workspace, one), adapter_of(workspace, two)) < rounding(one)
    assert two["steps"] == one["steps"] == 6
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], abs=rounding(one))
    assert log.count("step 6/6  loss") == 1, "one process speaks"
    assert len(metrics_of(together)) == len(metrics_of(alone))
    assert "Traceback" not in log


@pytest.mark.faults
@pytest.mark.parametrize(
    ("alone", "together"),
    [
        ({"batch_size": 4, "gradient_accumulation": 4}, {"batch_size": 2, "gradient_accumulation": 4, "processes": 2}),
        ({"batch_size": 6}, {"batch_size": 2, "processes": 3}),
        (
            {"packing": True, "max_length": 64, "batch_size": 2},
            {"packing": True, "max_length": 64, "batch_size": 1, "processes": 2},
        ),
        (FULL, {**FULL, "batch_size": 4, "processes": 2}),
    ],
    ids=["accumulation", "three processes", "packing", "full"],
)
def test_that_holds_for_other_divisions_too(workspace, new_dataset, finished, monkeypatch, alone, together):
    monkeypatch.setattr("tunesmith.training.hardware.usable_cores", lambda: 3)
    rows = new_dataset(make_rows(ROWS))
    one, alone_dir, _ = finished({**ALONE, **alone}, rows)
    two, together_dir, _ = finished({**ALONE, **together}, rows)
    assert curve_of(together_dir) == pytest.approx(curve_of(alone_dir), abs=rounding(one))
    if alone is not FULL:
        assert largest_difference(adapter_of(workspace, one), adapter_of(workspace, two)) < rounding(one)


@pytest.mark.faults
def test_memory_that_runs_out_in_one_process_makes_all_go_on_with_less(workspace, new_dataset, finished):
    rows = new_dataset(make_rows(ROWS))
    whole, undisturbed, _ = finished({**TOGETHER, "save_steps": 2}, rows)
    less, disturbed, _ = finished({**TOGETHER, "save_steps": 2}, rows, **{f"{VARIABLE}_2": "step:4"})
    (recovery,) = less["recoveries"]
    assert (recovery["resumed_from"], recovery["change"]) == (
        2,
        "batch_size 4 → 2, gradient_accumulation 1 → 2",
    )
    assert curve_of(disturbed) == pytest.approx(curve_of(undisturbed), abs=rounding(whole))
    assert largest_difference(adapter_of(workspace, whole), adapter_of(workspace, less)) < rounding(whole)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("places", "others"),
    [("step:3", "step:3"), ("load:1", ""), ("", "load:1"), ("", "evaluation:1"), ("evaluation:2", "")],
    ids=["in both", "first loading", "other loading", "other looking", "first looking"],
)
def test_memory_that_runs_out_anywhere_is_recovered_from_together(finished, places, others):
    result, _, log = finished({**TOGETHER, "save_steps": 2}, **{VARIABLE: places, f"{VARIABLE}_2": others})
    assert result["steps"] == 6
    assert "Traceback" not in log


@pytest.mark.faults
def test_a_cancelled_training_stops_all_at_one_step_and_seals_one_checkpoint(long_run):
    process, other, run_dir = long_run()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_CANCELLED
    assert gone(other)
    last = max(line["step"] for line in metrics_of(run_dir) if line["loss"] is not None)
    root = run_dir / "checkpoints"
    assert checkpoints.newest_sealed_step(root) == last
    assert checkpoints.problem_of(checkpoints.folder_of(root, last)) is None


@pytest.mark.faults
def test_a_killed_process_ends_the_run_with_what_happened(long_run):
    process, other, run_dir = long_run()
    other.kill()
    error = outcome(process, run_dir)["error"]
    assert error["code"] == "process_lost"
    assert "Training process 2 of 2 was killed" in error["message"]
    assert "resume_run" in error["next"]
    assert gone(other)


@pytest.mark.faults
def test_a_killed_worker_leaves_no_process(long_run):
    process, other, _ = long_run()
    kill(process)
    assert gone(other)


def test_a_worker_that_waits_for_a_dead_process_is_ended(tmp_path):
    """A card waits for ever for one that is gone, and no exception comes out of it."""
    process = subprocess.Popen([sys.executable, "-c", HANGS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    assert process.wait(timeout=30) == EXIT_FAILED
    process.stdout.close()
    left = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert left["error"]["code"] == "process_lost"


@pytest.mark.faults
@pytest.mark.timeout(480)  # three trainings, of which two start two processes
@pytest.mark.parametrize("then", [1, 2], ids=["alone", "together"])
def test_what_two_processes_began_is_finished_by_any_number(
    workspace, tiny_base, new_dataset, start_worker, finished, then
):
    """With dropout too, whose random numbers are others only with another number of processes."""
    rows = new_dataset(make_rows(ROWS))
    recipe = {**TOGETHER, "epochs": 6, "save_steps": 2, "dropout": 0.2 if then == 2 else 0.0}
    whole, undisturbed, _ = finished(recipe, rows)
    process, begun = start_worker(arguments_for(workspace, rows, tiny_base, **recipe))
    wait_for_step(process, begun, 5)
    kill(process)
    changed = {**recipe, "processes": then, "batch_size": 8 // then}
    resumed, run_dir, _ = finished(changed, rows, resume_from=begun.name)
    assert resumed["resumed_from"]["step"] >= 4
    assert resumed["steps"] == whole["steps"] == 18
    assert curve_of(run_dir) == pytest.approx(curve_of(undisturbed), abs=rounding(whole))
    assert largest_difference(adapter_of(workspace, resumed), adapter_of(workspace, whole)) < rounding(whole)


@pytest.mark.faults
def test_under_its_shim_a_killed_worker_of_two_processes_is_gone_altogether(workspace, tiny_base, new_dataset):
    runs = Supervisor(workspace)
    args = arguments_for(workspace, new_dataset(make_rows(ROWS)), tiny_base, **LONG)
    run_id = runs.submit("train", worker_command("training"), args, slots=("device0",))
    folder = runs.folder(run_id)
    deadline = time.monotonic() + 90
    while not any(line["step"] >= 3 for line in metrics_of(folder)):
        assert time.monotonic() < deadline, (folder / "log.txt").read_text(encoding="utf-8")
        time.sleep(0.1)
    worker = runs.row(run_id).worker_pid
    assert worker is not None
    (other,) = psutil.Process(worker).children()
    os.kill(worker, signal.SIGKILL)
    assert gone(other)
    while runs.row(run_id).state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    row = runs.row(run_id)
    assert (row.state, (row.error or {}).get("code")) == ("failed", "killed_by_system")
