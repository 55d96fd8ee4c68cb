"""A training that was interrupted and goes on ends where an undisturbed one ends."""

from __future__ import annotations

import signal

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
    wait_until,
)
from tunesmith import checkpoints
from tunesmith.work import EXIT_CANCELLED

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("changed", [{}, {"packing": True, "max_length": 128, "batch_size": 1}])
def test_a_killed_run_that_goes_on_ends_like_an_undisturbed_one(
    workspace, new_dataset, tiny_base, start_worker, changed
):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base, **changed)
    quiet, quiet_dir = start_worker(arguments)
    expected = outcome(quiet, quiet_dir)["result"]
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 7)
    kill(process)
    resumed, resumed_dir = start_worker({**arguments, "resume_from": run_dir.name})
    left = outcome(resumed, resumed_dir)
    assert "result" in left, left
    result = left["result"]

    assert result["resumed_from"]["run_id"] == run_dir.name
    assert 4 <= result["resumed_from"]["step"] < expected["steps"]
    assert result["checkpoints_set_aside"] == []
    assert largest_difference(adapter_of(workspace, result), adapter_of(workspace, expected)) < 1e-6
    assert list(curve_of(resumed_dir)) == list(curve_of(quiet_dir))
    assert curve_of(resumed_dir) == pytest.approx(curve_of(quiet_dir), rel=1e-5)
    assert len(metrics_of(resumed_dir)) == len(metrics_of(quiet_dir))
    for name in ("steps", "train_loss", "eval_loss", "best_step", "rows", "stopped_early"):
        assert result[name] == pytest.approx(expected[name], rel=1e-5), name


def test_a_cancelled_run_saves_what_was_trained_and_goes_on_from_there(workspace, new_dataset, tiny_base, start_worker):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base, save_steps=24)
    quiet, quiet_dir = start_worker(arguments)
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_CANCELLED
    step = checkpoints.newest_sealed_step(run_dir / "checkpoints")
    assert step is not None
    assert step >= 3
    resumed, resumed_dir = start_worker({**arguments, "resume_from": run_dir.name})
    result = outcome(resumed, resumed_dir)["result"]
    expected = outcome(quiet, quiet_dir)["result"]
    assert result["resumed_from"] == {"run_id": run_dir.name, "step": step}
    assert largest_difference(adapter_of(workspace, result), adapter_of(workspace, expected)) < 1e-6


def test_a_run_cancelled_while_it_measures_makes_up_for_the_look_when_it_goes_on(
    workspace, new_dataset, tiny_base, start_worker
):
    # A hundred rows held out, one at a time: a look takes longer than a step, so the signal comes in the middle of it.
    arguments = arguments_for(
        workspace,
        new_dataset(make_rows(200)),
        tiny_base,
        eval_fraction=0.5,
        batch_size=1,
        gradient_accumulation=8,
        epochs=2,
        eval_steps=4,
        save_steps=100,
    )
    quiet, quiet_dir = start_worker(arguments)
    expected = outcome(quiet, quiet_dir)["result"]
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 8)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_CANCELLED
    assert not any(line["step"] == 8 and line["eval_loss"] for line in metrics_of(run_dir))
    assert checkpoints.newest_sealed_step(run_dir / "checkpoints") == 8
    resumed, resumed_dir = start_worker({**arguments, "resume_from": run_dir.name})
    result = outcome(resumed, resumed_dir)["result"]
    assert curve_of(resumed_dir) == pytest.approx(curve_of(quiet_dir), rel=1e-5)
    assert largest_difference(adapter_of(workspace, result), adapter_of(workspace, expected)) < 1e-6


def test_a_run_cancelled_before_its_first_step_ends_at_once_and_leaves_no_checkpoint(
    workspace, new_dataset, tiny_base, start_worker
):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base)
    log = "Loading the base model"
    process, run_dir = start_worker(arguments)
    events = run_dir / "events.jsonl"
    wait_until(process, run_dir, lambda: events.is_file() and log in events.read_text(encoding="utf-8"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_CANCELLED
    assert checkpoints.newest_sealed_step(run_dir / "checkpoints") is None
    assert not any(line["loss"] for line in metrics_of(run_dir))
    error = outcome(*start_worker({**arguments, "resume_from": run_dir.name}))["error"]
    assert error["code"] == "no_checkpoint"
    assert "start_training" in error["next"]


@pytest.mark.parametrize(
    "steps", [pytest.param(24, marks=pytest.mark.faults), 22]
)  # at the end of an epoch, and within one
def test_a_run_killed_after_its_last_step_is_only_finished_and_not_trained_further(
    workspace, new_dataset, tiny_base, start_worker, steps
):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base, max_steps=steps)
    process, run_dir = start_worker(arguments)
    folder = checkpoints.folder_of(run_dir / "checkpoints", steps)
    wait_until(process, run_dir, lambda: checkpoints.is_sealed(folder))
    kill(process)
    assert not (run_dir / "result.json").exists()
    quiet = outcome(*start_worker(arguments))["result"]
    result = outcome(*start_worker({**arguments, "resume_from": run_dir.name}))["result"]
    assert result["steps"] == steps
    assert result["resumed_from"]["step"] == steps
    assert result["eval_loss"] == pytest.approx(quiet["eval_loss"], rel=1e-5)
    assert largest_difference(adapter_of(workspace, result), adapter_of(workspace, quiet)) < 1e-6


def test_more_epochs_give_the_model_that_a_longer_run_would_have_given(workspace, new_dataset, tiny_base, start_worker):
    dataset_id = new_dataset(make_rows(24))

    def arguments(epochs):
        # With a constant rate the first steps of a long run are those of a short one.
        return arguments_for(
            workspace,
            dataset_id,
            tiny_base,
            epochs=epochs,
            scheduler="constant_with_warmup",
            warmup_steps=2,
            eval_steps=3,
            save_steps=4,
        )

    long_run = start_worker(arguments(4))
    short, short_dir = start_worker(arguments(2))
    first = outcome(short, short_dir)["result"]
    assert checkpoints.sealed_steps(short_dir / "checkpoints") == [6]
    resumed, resumed_dir = start_worker({**arguments(4), "resume_from": short_dir.name})
    result = outcome(resumed, resumed_dir)["result"]
    expected = outcome(*long_run)["result"]
    assert result["resumed_from"] == {"run_id": short_dir.name, "step": first["steps"]}
    assert result["steps"] == expected["steps"] == 12
    assert largest_difference(adapter_of(workspace, result), adapter_of(workspace, expected)) < 1e-6
    assert not (short_dir / "checkpoints").exists()  # they have served


def test_with_more_epochs_and_another_rate_each_later_step_has_the_rate_of_the_new_schedule(
    workspace, new_dataset, tiny_base, start_worker
):
    dataset_id = new_dataset(make_rows(24))

    def arguments(epochs, rate):
        return arguments_for(
            workspace, dataset_id, tiny_base, epochs=epochs, scheduler="linear", warmup_steps=0, learning_rate=rate
        )

    short, short_dir = start_worker(arguments(2, 0.01))
    outcome(short, short_dir)
    resumed, resumed_dir = start_worker({**arguments(4, 0.02), "resume_from": short_dir.name})
    outcome(resumed, resumed_dir)
    rates = {line["step"]: line["learning_rate"] for line in metrics_of(resumed_dir) if line["loss"]}
    assert rates[6] == pytest.approx(0.01 * (1 - 5 / 6))
    for step in range(7, 13):
        assert rates[step] == pytest.approx(0.02 * (1 - (step - 1) / 12))


def test_the_stored_prompt_format_is_used_and_not_one_made_anew(
    workspace, new_dataset, tiny_base, start_worker, tmp_path
):
    import json
    import shutil

    base = tmp_path / "dated"
    shutil.copytree(tiny_base, base)
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), base)
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 5)
    kill(process)
    template = base / "chat_template.jinja"
    before = template.read_text()
    template.write_text(
        before.replace("<|im_end|>' +", "<|im_end|> ' +")
    )  # as a template that prints the date, tomorrow
    assert template.read_text() != before
    result = outcome(*start_worker({**arguments, "resume_from": run_dir.name}))["result"]
    adapter = workspace.models / result["model_id"]
    assert json.dumps(before)[1:-1] in (adapter / "manifest.json").read_text()


def test_other_rows_or_another_base_are_refused(workspace, new_dataset, tiny_base, start_worker, tmp_path):
    import shutil

    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    dataset_id = new_dataset(make_rows(24))
    arguments = arguments_for(workspace, dataset_id, base)
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 5)
    kill(process)
    resume = {**arguments, "resume_from": run_dir.name}

    rows = workspace.datasets / dataset_id / "rows.jsonl"
    content = rows.read_bytes()
    rows.write_bytes(content.replace(b"shines red", b"shines sad"))
    error = outcome(*start_worker(resume))["error"]
    assert error["code"] == "bad_input"
    assert dataset_id in error["message"]
    rows.write_bytes(content)

    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    error = outcome(*start_worker(resume))["error"]
    assert error["code"] == "bad_input"
    assert "base model" in error["message"]


def test_a_run_that_died_before_it_took_anything_over_is_passed_by(workspace, new_dataset, tiny_base, start_worker):
    arguments = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base)
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 5)
    kill(process)
    second, second_dir = start_worker({**arguments, "resume_from": run_dir.name})
    kill(second)
    # This one may measure that bfloat16 is the faster; the training stays in the format it began in.
    third, third_dir = start_worker({**arguments, "resume_from": second_dir.name}, ONEDNN_MAX_CPU_ISA="DEFAULT")
    result = outcome(third, third_dir)["result"]
    assert result["resumed_from"]["run_id"] == run_dir.name
    assert result["dtype"] == "float32"
    assert [line["step"] for line in metrics_of(third_dir) if line["loss"]] == list(range(1, 25))
