"""What resume_run accepts, what it refuses and with which words; no training runs here."""

from __future__ import annotations

import json

import pytest

from tunesmith import checkpoints
from tunesmith.errors import Conflict, InvalidArgument, NotFound
from tunesmith.runs.supervisor import Supervisor
from tunesmith.training import reclaiming, resuming
from tunesmith.training.recipe import Recipe
from tunesmith.training.saved import Looks, Saved
from tunesmith.workspace import Workspace, new_id

RECIPE = {
    "method": "lora",
    "engine": "transformers",
    "prompt_format": "chat",
    "rank": 4,
    "alpha": 8,
    "dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "epochs": 2,
    "max_steps": None,
    "learning_rate": 0.01,
    "scheduler": "cosine",
    "warmup_steps": 0,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "processes": 1,
    "max_length": 128,
    "packing": False,
    "gradient_checkpointing": "off",
    "optimizer": "adamw_torch",
    "weight_decay": 0.01,
    "max_grad_norm": 0.3,
    "eval_fraction": 0.1,
    "eval_steps": 3,
    "early_stopping_patience": 3,
    "save_steps": 2,
    "seed": 42,
    "memory_budget_gib": None,
    "on_out_of_memory": "recover",
}
ENDINGS = {
    "queued": [],
    "running": ["starting", "running"],
    "cancelling": ["starting", "running", "cancelling"],
    "failed": ["starting", "running", "failed"],
    "lost": ["starting", "running", "lost"],
    "succeeded": ["starting", "running", "succeeded"],
    "cancelled": ["cancelled"],
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    supervisor = Supervisor(Workspace(tmp_path / "ws"))
    monkeypatch.setattr(supervisor, "launch", lambda: None)  # nothing is started: only what is asked is looked at
    return supervisor


def make_run(runs, state="failed", kind="train", resume_from=None, **recipe):
    """A run that ended, without its checkpoints."""
    run_id = new_id("run")
    folder = runs.folder(run_id)
    folder.mkdir()
    args = {"dataset_id": "ds_abcdefghijkl", "base_model": "embedded", "recipe": {**RECIPE, **recipe}, "plan": None}
    if resume_from:
        args["resume_from"] = resume_from
    (folder / "spec.json").write_text(json.dumps({"run_id": run_id, "kind": kind, "args": args}))
    runs.store.insert(run_id, kind, ("device0",), resume_of=resume_from)
    for step in ENDINGS[state]:
        columns = {"spawn_deadline": 9e12} if step == "starting" else {}
        assert runs.store.transition(run_id, step, **columns)
    return run_id


def add_checkpoint(runs, run_id, step, *, best_step=0, seal=True, **recipe):
    folder = checkpoints.folder_of(runs.folder(run_id) / "checkpoints", step)
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"w" * 1000)
    Saved(
        run_id=run_id,
        step=step,
        total_steps=12,
        steps_per_epoch=6,
        dataset_id="ds_abcdefghijkl",
        dataset_sha256="0" * 64,
        base_model="embedded",
        base_fingerprint="0" * 64,
        device="cpu",
        dtype="float32",
        prompt_format={},
        recipe={**RECIPE, **recipe},
        recoveries=[],
        looks=Looks(before=3.0, best=2.0, best_step=best_step, last=2.0, last_step=step, losses={1: float("nan")}),
    ).write(folder)
    if seal:
        checkpoints.seal(folder, step)
    return folder


@pytest.mark.parametrize("state", ["failed", "lost", "cancelled"])
def test_a_run_that_ended_early_is_resumed_by_a_new_one(runs, state):
    run_id = make_run(runs, state)
    add_checkpoint(runs, run_id, 4)
    new = resuming.resume_run(runs, run_id, {})
    row = runs.store.get(new)
    assert (row.kind, row.resume_of, row.slots) == ("train", run_id, ("device0",))
    args = runs.spec(new)["args"]
    assert args["resume_from"] == run_id
    assert args["recipe"] == RECIPE
    assert "-P" in runs.spec(new)["command"]  # nothing is imported from the folder it is started in


@pytest.mark.parametrize("state", ["queued", "running", "cancelling"])
def test_a_run_that_has_not_ended_is_not_resumed(runs, state, monkeypatch):
    monkeypatch.setattr(runs, "_reconcile", lambda row: False)
    run_id = make_run(runs, state)
    with pytest.raises(Conflict) as caught:
        resuming.resume_run(runs, run_id, {})
    assert f"it is {state}" in caught.value.message
    assert ("cancel_run" in caught.value.next) == (state != "cancelling")


def test_a_run_of_another_kind_is_not_resumed(runs):
    with pytest.raises(InvalidArgument, match="kind export"):
        resuming.resume_run(runs, make_run(runs, kind="export"), {})


def test_without_a_finished_checkpoint_there_is_nothing_to_resume(runs):
    run_id = make_run(runs)
    add_checkpoint(runs, run_id, 4, seal=False)
    with pytest.raises(NotFound) as caught:
        resuming.resume_run(runs, run_id, {})
    assert caught.value.error_code == "no_checkpoint"
    assert "start_training" in caught.value.next


def test_an_unknown_field_is_answered_with_the_nearest_name(runs):
    with pytest.raises(InvalidArgument, match="did you mean epochs"):
        resuming.resume_run(runs, make_run(runs), {"epoch": 3})


def test_all_changes_that_would_make_it_another_training_are_refused_at_once(runs):
    run_id = make_run(runs)
    add_checkpoint(runs, run_id, 4)
    changes = {
        "rank": 32,
        "alpha": 64,
        "dropout": 0.5,
        "target_modules": ["q_proj"],
        "prompt_format": "alpaca",
        "max_length": 64,
        "packing": True,
        "eval_fraction": 0.2,
        "seed": 7,
        "optimizer": "adamw_8bit",
        "weight_decay": 0.5,
        "scheduler": "linear",
        "warmup_steps": 1,
        "batch_size": 3,
        "method": "qlora",
    }
    with pytest.raises(InvalidArgument) as caught:
        resuming.resume_run(runs, run_id, changes)
    for name in changes:
        assert name in caught.value.message
    assert "start_training" in caught.value.next


def test_a_field_with_the_value_it_has_is_no_change(runs):
    run_id = make_run(runs)
    add_checkpoint(runs, run_id, 4)
    changes = {name: value for name, value in RECIPE.items() if value is not None}
    assert runs.spec(resuming.resume_run(runs, run_id, changes))["args"]["recipe"] == RECIPE


@pytest.mark.parametrize(
    ("changes", "batch", "accumulation"),
    [
        ({"batch_size": 2}, 2, 4),
        ({"gradient_accumulation": 8}, 1, 8),
        ({"batch_size": 8, "gradient_accumulation": 1}, 8, 1),
    ],
)
def test_the_batch_may_change_when_as_many_rows_make_a_step(changes, batch, accumulation):
    recipe = resuming.changed_recipe(Recipe.model_validate(RECIPE), changes)
    assert (recipe.batch_size, recipe.gradient_accumulation) == (batch, accumulation)


def test_a_resumed_run_keeps_what_was_given_up_when_memory_ran_out(runs):
    run_id = make_run(runs)
    add_checkpoint(runs, run_id, 4, batch_size=1, gradient_accumulation=8, gradient_checkpointing="on")
    recipe = runs.spec(resuming.resume_run(runs, run_id, {"learning_rate": 1e-4}))["args"]["recipe"]
    assert recipe == {
        **RECIPE, "batch_size": 1, "gradient_accumulation": 8, "gradient_checkpointing": "on", "learning_rate": 1e-4,
    }  # fmt: skip


def test_a_finished_run_is_resumed_only_for_more(runs):
    run_id = make_run(runs, "succeeded")
    add_checkpoint(runs, run_id, 12)
    for changes in ({}, {"epochs": 2}, {"learning_rate": 1e-3}):
        with pytest.raises(Conflict, match="is finished") as caught:
            resuming.resume_run(runs, run_id, changes)
    assert "more than 2 epochs" in caught.value.next
    assert runs.spec(resuming.resume_run(runs, run_id, {"epochs": 3}))["args"]["recipe"]["epochs"] == 3


def test_a_run_is_not_resumed_to_end_before_where_it_is(runs):
    run_id = make_run(runs)
    add_checkpoint(runs, run_id, 8)
    with pytest.raises(InvalidArgument, match="8 steps are done"):
        resuming.resume_run(runs, run_id, {"epochs": 1})


def test_the_same_key_gives_the_same_run_even_after_its_checkpoints_have_served(runs):
    run_id = make_run(runs)
    folder = add_checkpoint(runs, run_id, 4)
    first = resuming.resume_run(runs, run_id, {}, idempotency_key="k")
    checkpoints.remove(folder)
    assert resuming.resume_run(runs, run_id, {}, idempotency_key="k") == first
    with pytest.raises(Conflict, match="belongs to"):
        resuming.resume_run(runs, run_id, {"epochs": 3}, idempotency_key="k")


def test_a_run_whose_checkpoints_have_served_names_the_run_that_went_on(runs):
    run_id = make_run(runs)
    heir = make_run(runs, "succeeded", resume_from=run_id)
    with pytest.raises(NotFound) as caught:
        resuming.resume_run(runs, run_id, {})
    assert caught.value.error_code == "no_checkpoint"
    assert heir in caught.value.next


def test_what_no_resume_needs_is_listed_with_its_bytes_and_removed(runs):
    run_id = make_run(runs)
    for step in (2, 4, 6):
        add_checkpoint(runs, run_id, step, best_step=4)
    add_checkpoint(runs, run_id, 8, seal=False)
    root = runs.folder(run_id) / "checkpoints"
    found = reclaiming.reclaimable(runs)
    assert {(entry.path.name, entry.why) for entry in found} == {
        ("checkpoint-2", "a checkpoint"),
        ("checkpoint-8", "half written"),
    }
    assert all(entry.bytes > 1000 for entry in found)
    assert len(list(root.iterdir())) == 4  # a listing removes nothing
    assert sum(reclaiming.reclaim(runs, entry) for entry in found) == sum(entry.bytes for entry in found)
    assert checkpoints.sealed_steps(root) == [4, 6]
    everything = reclaiming.reclaimable(runs, resumable_too=True)
    assert {entry.path.name for entry in everything} == {"checkpoint-4", "checkpoint-6"}


def test_while_the_newest_checkpoint_is_damaged_the_ones_before_are_needed(runs):
    run_id = make_run(runs)
    folders = [add_checkpoint(runs, run_id, step, best_step=step) for step in (2, 4, 6)]
    (folders[-1] / "weights.bin").write_bytes(b"w" * 999)
    assert reclaiming.reclaimable(runs) == []


def test_shared_files_count_once_and_not_while_another_run_has_them(runs):
    run_id = make_run(runs)
    add_checkpoint(runs, run_id, 2)
    theirs = add_checkpoint(runs, run_id, 4)
    heir = make_run(runs, "succeeded", resume_from=run_id)
    checkpoints.link(theirs, runs.folder(heir) / "checkpoints")
    found = {entry.path.name: entry for entry in reclaiming.reclaimable(runs)}
    assert found["checkpoint-4"].bytes == 0
    assert found["checkpoint-2"].bytes > 1000
    assert found["checkpoint-2"].why == reclaiming.SUPERSEDED


def test_what_an_unfinished_run_continues_is_kept(runs):
    run_id = make_run(runs)
    add_checkpoint(runs, run_id, 2)
    add_checkpoint(runs, run_id, 4)
    succeeded = make_run(runs, "succeeded", resume_from=run_id)
    waiting = make_run(runs, "queued", resume_from=run_id)
    assert reclaiming.reclaimable(runs) == []
    reclaiming.drop_ancestors(runs, succeeded)
    assert checkpoints.sealed_steps(runs.folder(run_id) / "checkpoints") == [2, 4]
    runs.store.request_cancel(waiting)
    reclaiming.drop_ancestors(runs, succeeded)
    assert not (runs.folder(run_id) / "checkpoints").exists()
