"""Memory runs out: nothing is lost, the run says what it gave up, and the model is the one it would have been."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import (
    adapter_of,
    curve_of,
    kill,
    largest_difference,
    make_rows,
    metrics_of,
    outcome,
    wait_for_step,
)
from tunesmith.models.store import ModelStore
from tunesmith.runs import measurements
from tunesmith.training import recovery
from tunesmith.training.injection import VARIABLE, Injection
from tunesmith.training.passes import Passes
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import parse_options
from tunesmith.training.records import TrainResult

OPTIONS = {
    "epochs": 2,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "learning_rate": 0.01,
    "eval_steps": 4,
    "save_steps": 2,
    "rank": 4,
}
PACKED = {"packing": True, "max_length": 256, "batch_size": 1, "gradient_accumulation": 2, "epochs": 4}
HALVED = "batch_size 4 → 2, gradient_accumulation 1 → 2"
HALVED_AGAIN = "batch_size 2 → 1, gradient_accumulation 2 → 4"
RECOMPUTED = "gradient_checkpointing off → on"
EVALUATED_IN_HALVES = "evaluation rows 4 → 2"


def arguments(workspace, dataset_id, base, **changed):
    return start_arguments(plan(workspace, dataset_id, str(base), parse_options({**OPTIONS, **changed})))


@dataclass
class Ended:
    """A run that succeeded."""

    folder: Path
    result: TrainResult
    adapter: dict[str, Any]

    @property
    def recoveries(self) -> list[tuple[int, int, str]]:
        return [(one.step, one.resumed_from, one.change) for one in self.result.recoveries]

    @property
    def curve(self) -> dict[str, Any]:
        """Losses by step as a reader of the run sees them, each step once."""
        points = measurements.sample(self.folder / "metrics.jsonl", 1000).points
        keys = [(point["step"], point["eval_loss"] is not None) for point in points]
        assert len(keys) == len(set(keys))
        assert [step for step, _ in keys] == sorted(step for step, _ in keys)
        return curve_of(self.folder)


@pytest.fixture
def run(workspace, start_worker):
    """The same training undisturbed, then with memory running out at each of these lists of places."""

    def ended(folder: Path) -> Ended:
        path = folder / "result.json"
        assert path.is_file(), (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
        left = json.loads(path.read_text(encoding="utf-8"))
        assert "result" in left, left
        return Ended(folder, TrainResult.model_validate(left["result"]), adapter_of(workspace, left["result"]))

    def several(args: dict[str, Any], *places: str) -> list[Ended]:
        found = []
        for named in ("", *places):
            process, folder = start_worker(args, **({VARIABLE: named} if named else {}))
            process.wait(200)
            found.append(ended(folder))
        return found

    return several


def same_result(disturbed: Ended, quiet: Ended, *, within: float) -> None:
    assert disturbed.result.steps == quiet.result.steps
    assert disturbed.curve == pytest.approx(quiet.curve, rel=within)
    assert disturbed.result.eval_loss.after == pytest.approx(quiet.result.eval_loss.after, rel=within)
    # AdamW takes steps of one size whatever the gradient's, so a rounding shows where that is nearly nothing.
    assert largest_difference(disturbed.adapter, quiet.adapter) < 20 * within


@pytest.mark.slow
@pytest.mark.fault("F23")
def test_memory_may_run_out_anywhere_and_the_model_is_that_of_an_undisturbed_run(
    workspace, new_dataset, tiny_base, run
):
    # Held-out losses 2 and 3 are those of the control.
    args = arguments(workspace, new_dataset(make_rows(40)), tiny_base, eval_fraction=0.3)
    quiet, disturbed = run(args, "load:1,evaluation:1,step:6,evaluation:5")
    assert disturbed.recoveries == [
        (0, 0, recovery.LOADED_AGAIN),
        (0, 0, EVALUATED_IN_HALVES),
        (5, 4, HALVED),
        (8, 8, "evaluation rows 2 → 1"),
    ]
    same_result(disturbed, quiet, within=2e-4)
    assert disturbed.result.diagnosis.symptoms[0].code == "out_of_memory"


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.fault("F23")
def test_out_of_memory_in_training_steps_down_and_gives_the_model_of_an_undisturbed_run(
    workspace, new_dataset, tiny_base, run
):
    quiet, first, middle, foot = run(
        arguments(workspace, new_dataset(make_rows(24)), tiny_base),
        "step:1",
        "step:6",
        "step:3,step:6,step:7",
    )
    assert first.recoveries == [(0, 0, HALVED)]
    assert middle.recoveries == [(5, 4, HALVED)]
    assert foot.recoveries == [(2, 2, HALVED), (5, 4, HALVED_AGAIN), (6, 6, RECOMPUTED)]
    for disturbed in (first, middle, foot):
        assert disturbed.result.diagnosis.symptoms[0].code == "out_of_memory"
        # The same rows in the same steps; only the order of summation differs.
        same_result(disturbed, quiet, within=2e-4)
    recipe = ModelStore(workspace).get(foot.result.model_id).recipe
    assert (recipe["batch_size"], recipe["gradient_accumulation"], recipe["gradient_checkpointing"]) == (1, 4, "on")


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.fault("F23")
def test_out_of_memory_while_measuring_or_loading_costs_no_step_and_changes_no_number_of_the_training(
    workspace, new_dataset, tiny_base, run
):
    # With 40 held-out rows the control is measured too: held-out losses 2 and 3 are its own.
    args = arguments(workspace, new_dataset(make_rows(80)), tiny_base, eval_fraction=0.5, eval_steps=7)
    quiet, base, look, loading, both = run(
        args, "evaluation:1", "evaluation:4,evaluation:5", "load:1", "load:1,evaluation:2,step:5"
    )
    assert base.recoveries == [(0, 0, EVALUATED_IN_HALVES)]
    assert look.recoveries == [(7, 7, EVALUATED_IN_HALVES), (14, 14, "evaluation rows 2 → 1")]
    assert loading.recoveries == [(0, 0, recovery.LOADED_AGAIN)]
    assert both.recoveries == [(0, 0, recovery.LOADED_AGAIN), (0, 0, EVALUATED_IN_HALVES), (4, 4, HALVED)]
    for disturbed in (base, look, loading):
        same_result(disturbed, quiet, within=1e-6)
        assert len(metrics_of(disturbed.folder)) == len(metrics_of(quiet.folder))  # nothing was done twice
    same_result(both, quiet, within=2e-4)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.fault("F23")
def test_a_packed_sequence_is_taken_in_parts_when_it_does_not_fit_and_the_steps_stay_as_they_were(
    workspace, new_dataset, tiny_base, run, start_worker
):
    args = arguments(workspace, new_dataset(make_rows(40)), tiny_base, **PACKED)
    quiet, disturbed = run(args, "step:1,step:3,step:6")
    (_, _, first), (_, _, second), (_, _, third) = disturbed.recoveries
    assert first == RECOMPUTED
    assert second.startswith("max_length 256 → 128 tokens of a packed sequence at a time")
    assert third.startswith("max_length 128 → ")
    same_result(disturbed, quiet, within=2e-4)
    assert ModelStore(workspace).get(disturbed.result.model_id).recipe["max_length"] == 256

    # A run that goes on knows what did not fit.
    process, folder = start_worker(args, **{VARIABLE: "step:1,step:2"})
    wait_for_step(process, folder, 6)
    kill(process)
    left = outcome(*start_worker({**args, "resume_from": folder.name}))["result"]
    assert [one["change"] for one in left["recoveries"]] == [first, second]
    assert largest_difference(adapter_of(workspace, left), quiet.adapter) < 4e-3


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.fault("F23")
def test_at_the_foot_of_the_ladder_the_run_fails_and_names_what_the_caller_may_give_up(
    workspace, new_dataset, tiny_base, start_worker
):
    dataset_id = new_dataset(make_rows(12))
    args = arguments(workspace, dataset_id, tiny_base, rank=16)
    training = start_worker(args, **{VARIABLE: ",".join(["step:2"] * 4)})
    loading = start_worker(args, **{VARIABLE: "load:1,load:2"})
    asked = start_worker(
        arguments(workspace, dataset_id, tiny_base, on_out_of_memory="fail"), **{VARIABLE: "evaluation:1"}
    )
    error = outcome(*training)["error"]
    assert error["code"] == "out_of_memory"
    assert "rank=8" in error["next"]
    assert "smaller base_model" in error["next"]
    error = outcome(*loading)["error"]
    assert error["code"] == "out_of_memory"
    assert "while the base model was loaded" in error["message"]
    assert "rank" not in error["next"]
    error = outcome(*asked)["error"]
    assert error["code"] == "out_of_memory"
    assert "on_out_of_memory='recover'" in error["next"]
    assert ModelStore(workspace).by_run(asked[1].name) is None


def test_the_ladder_keeps_the_effective_batch_and_ends_at_the_longest_row(workspace, new_dataset, tiny_base):
    recipe = plan(
        workspace,
        new_dataset(make_rows(24)),
        str(tiny_base),
        parse_options({"packing": True, "max_length": 512, "batch_size": 6, "gradient_accumulation": 2}),
    ).recipe
    passes, changes = Passes(), []
    while (down := recovery.step_down(recipe, passes, 100)) is not None:
        assert down.recipe.effective_batch == 12
        recipe, passes = down.recipe, down.passes
        changes.append(down.change)
    assert (recipe.batch_size, recipe.gradient_checkpointing, passes.packed_tokens) == (1, "on", 100)
    assert recipe.max_length == 512
    assert len(changes) == 2 + 1 + 3  # 6 → 3 → 1; recomputation; 256, 128, 100


def test_memory_runs_out_only_where_a_test_says_so(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Injection.from_environment() is None
    monkeypatch.setenv(VARIABLE, "nowhere:1")
    with pytest.raises(ValueError, match="step, evaluation, load"):
        Injection.from_environment()


def test_unsloth_is_not_told_to_recompute_in_a_process_that_has_not_done_so(workspace, new_dataset, tiny_base):
    """On a card it went on keeping everything; the caller is told to begin with recomputation instead."""
    options = parse_options({"packing": True, "max_length": 256, "batch_size": 1, "gradient_accumulation": 1})
    recipe = plan(workspace, new_dataset(make_rows(24)), str(tiny_base), options).recipe
    recipe = recipe.model_copy(update={"engine": "unsloth"})
    down = recovery.step_down(recipe, Passes(), 100)
    assert down is not None
    assert (down.recipe.gradient_checkpointing, down.passes.packed_tokens) == ("off", 128)
    assert "gradient_checkpointing='on'" in recovery.exhausted(recipe, "no more").next


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
    ],
)
def test_every_library_is_understood_when_it_says_that_memory_ran_out(message):
    assert recovery.ran_out_of_memory(RuntimeError(message))
    assert not recovery.ran_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
