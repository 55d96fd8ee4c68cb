from __future__ import annotations

import json
import signal
import time

import pytest

from tests.training.conftest import make_rows, metrics_of, outcome
from tunesmith import checkpoints
from tunesmith.data.records import Message, Row
from tunesmith.errors import BadInput
from tunesmith.models.store import ModelStore
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import parse_options
from tunesmith.training.records import TrainResult
from tunesmith.work import EXIT_CANCELLED

OPTIONS = {
    "epochs": 2,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "learning_rate": 0.01,
    "eval_steps": 4,
    "save_steps": 2,
    "rank": 4,
}


def planned(workspace, dataset_id, base, **changed):
    return plan(workspace, dataset_id, str(base), parse_options({**OPTIONS, **changed}))


@pytest.mark.slow
def test_a_run_trains_keeps_the_adapter_and_leaves_what_was_promised(workspace, new_dataset, tiny_base, start_worker):
    before = planned(workspace, new_dataset(make_rows(24)), tiny_base)
    process, run_dir = start_worker(start_arguments(before))
    left = outcome(process, run_dir)
    assert "result" in left, left
    result = TrainResult.model_validate(left["result"])

    assert result.steps == before.steps
    assert result.eval_loss.after < result.eval_loss.before
    assert result.peak_gpu_gib is None
    assert result.peak_ram_gib > 0.1
    assert result.tokens_per_s > 0
    assert result.recoveries == []

    lines = metrics_of(run_dir)
    steps = [line["step"] for line in lines if line["loss"] is not None]
    assert steps == list(range(1, before.steps + 1))
    assert next(line["step"] for line in lines if line["eval_loss"] is not None) == 0
    for name in ("epoch", "learning_rate", "grad_norm", "tokens_per_s", "gpu_gib"):
        assert name in lines[1]

    progress = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert any(line["eta_s"] is not None for line in progress)

    newest, problems = checkpoints.newest_whole(run_dir / "checkpoints")
    assert newest is not None
    assert newest.name == f"checkpoint-{before.steps}"
    assert problems == []

    record = ModelStore(workspace).by_run(run_dir.name)
    assert record is not None
    assert record.model_id == result.model_id
    assert record.recipe == before.recipe.model_dump(mode="json")
    assert record.prompt_format["name"] == "chat"
    assert record.file("adapter") is not None
    # The card is there from training on, before anything is exported.
    card = (ModelStore(workspace).folder(record.model_id) / "README.md").read_text()
    assert "not exported as GGUF yet" in card
    assert record.lineage[0]["sha256"] in card
    adapter = ModelStore(workspace).folder(record.model_id) / "adapter"
    assert (adapter / "adapter_model.safetensors").stat().st_size > 0
    assert (adapter / "tokenizer.json").read_bytes() == (tiny_base / "tokenizer.json").read_bytes()
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_base)

    again = planned(workspace, before.dataset_id, tiny_base)
    assert again.eta_s is not None  # the run was measured
    assert again.tokens == before.tokens


@pytest.mark.slow
def test_early_stopping_keeps_the_best_model_with_packed_rows(workspace, new_dataset, tiny_base, start_worker):
    # A rate that soon throws the adapter about: the held-out loss falls, then scatters.
    wild = planned(
        workspace,
        new_dataset(make_rows(40)),
        tiny_base,
        epochs=60,
        learning_rate=0.3,
        scheduler="constant",
        eval_steps=2,
        early_stopping_patience=2,
        packing=True,
        max_length=256,
        batch_size=1,
    )
    process, run_dir = start_worker(start_arguments(wild))
    result = TrainResult.model_validate(outcome(process, run_dir)["result"])
    assert result.stopped_early
    assert result.steps < wild.steps
    looks = {line["step"]: line["eval_loss"] for line in metrics_of(run_dir) if line["eval_loss"] is not None}
    best = min(looks, key=looks.__getitem__)
    assert result.best_step in (best, result.steps)
    if best:
        assert result.best_step == best
        assert result.eval_loss.after == result.eval_loss.best == looks[best]


@pytest.mark.slow
def test_a_stopped_run_saves_a_whole_checkpoint_and_leaves_no_model(workspace, new_dataset, tiny_base, start_worker):
    long_run = planned(workspace, new_dataset(make_rows(24)), tiny_base, epochs=100, eval_steps=500, save_steps=500)
    assert long_run.steps > 400
    process, run_dir = start_worker(start_arguments(long_run))
    deadline = time.monotonic() + 120
    while not any(line["step"] >= 3 for line in metrics_of(run_dir)):
        assert process.poll() is None, (run_dir / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_CANCELLED

    newest, problems = checkpoints.newest_whole(run_dir / "checkpoints")
    assert newest is not None
    assert problems == []
    assert int(newest.name.removeprefix("checkpoint-")) >= 3
    assert not (run_dir / "result.json").exists()
    assert ModelStore(workspace).by_run(run_dir.name) is None


def test_a_row_from_which_nothing_would_be_learned_is_refused_by_plan_and_by_the_worker(
    workspace, new_dataset, tiny_base, start_worker
):
    good = new_dataset(make_rows(12))
    arguments = start_arguments(planned(workspace, good, tiny_base))
    question_only = Row(row_id="", messages=[Message(role="user", content="Which colour has no lamp?")])
    bad = new_dataset([*make_rows(12), question_only])
    with pytest.raises(BadInput, match="no token with loss"):
        planned(workspace, bad, tiny_base)
    error = outcome(*start_worker({**arguments, "dataset_id": bad}))["error"]
    assert error["code"] == "bad_input"
    assert "no token with loss" in error["message"]
    assert "clean_dataset" in error["next"]
