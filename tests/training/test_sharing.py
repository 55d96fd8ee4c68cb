"""How a training is divided among processes, and for how many there is room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.conftest import make_rows
from tests.training.test_hardware import card, with_cards
from tunesmith.errors import InvalidArgument, NotSupported
from tunesmith.training.batching import epoch_order, steps_in_epoch
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import parse_options
from tunesmith.training.records import AssumedGpu
from tunesmith.training.resuming import changed_recipe
from tunesmith.training.sharing import TRANSFER_GIB, is_idle, share, slots_needed

TWO_CARDS = with_cards(card(0, 24), card(1, 24), card(2, 8))


@pytest.fixture
def planned(workspace, new_dataset, tiny_base, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    dataset_id = new_dataset(make_rows(60))

    def make(machine=TWO_CARDS, assume_gpu=None, **options):
        options = parse_options(options)
        return plan(workspace, dataset_id, str(tiny_base), options, machine=machine, assume_gpu=assume_gpu)

    return make


@given(
    rows=st.integers(1, 90),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 4),
    count=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_together_the_processes_take_the_rows_of_each_step_once(rows, batch, accumulation, count, epoch):
    effective = batch * accumulation * count
    order = epoch_order([1 + row % 7 for row in range(rows)], effective, seed=1, epoch=epoch)
    steps = steps_in_epoch(rows, effective)
    taken: list[list[int]] = [[] for _ in range(steps)]
    for rank in range(count):
        mine = share(order, effective_batch=effective, batch_size=batch, rank=rank, count=count)
        # As the trainer cuts them: so many micro-batches a step, the last step with what is left.
        micro = [mine[start : start + batch] for start in range(0, len(mine), batch)]
        made = [micro[start : start + accumulation] for start in range(0, len(micro), accumulation)]
        assert len(made) == steps, "each process makes as many steps"
        for step, pieces in enumerate(made):
            asked = epoch * steps + step
            if not is_idle(rows, asked, effective_batch=effective, batch_size=batch, rank=rank):
                taken[step].extend(row for piece in pieces for row in piece)
            else:
                assert step == steps - 1
    for step, found in enumerate(taken):
        assert sorted(found) == sorted(order[step * effective : (step + 1) * effective])


def test_one_card_is_used_unless_more_are_asked_for_and_the_others_are_offered(planned):
    alone = planned(packing=False)
    assert alone.recipe.processes == 1
    assert "1 others like it" in alone.reasons["processes"]
    (offer,) = [other for other in alone.alternatives if "processes" in other.recipe]
    together = planned(packing=False, **offer.recipe)
    assert together.recipe.processes == 2
    assert together.recipe.effective_batch == alone.recipe.effective_batch
    assert together.steps == alone.steps
    assert together.memory.predicted_peak_gib == offer.predicted_peak_gib
    # Memory is that of each card, less what the transfers between them take.
    assert together.memory.budget_gib == pytest.approx(alone.memory.budget_gib - TRANSFER_GIB)
    assert start_arguments(together)["recipe"]["processes"] == 2


def test_more_processes_than_cards_alike_are_refused_with_what_there_is(planned, monkeypatch):
    with pytest.raises(NotSupported, match=r"processes=3: .* 2 card\(s\) like Card 0"):
        planned(processes=3)
    with pytest.raises(NotSupported, match=r"has 1 card\(s\)"):
        planned(machine=with_cards(card(0, 24)), processes=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(NotSupported, match=r"has 1 card\(s\)"):
        planned(processes=2)
    assert planned(assume_gpu=AssumedGpu(total_gib=24), processes=8).recipe.processes == 8


def test_a_number_that_does_not_divide_the_step_is_said(planned):
    recipe = planned(assume_gpu=AssumedGpu(total_gib=24), processes=3, packing=False)
    assert recipe.recipe.effective_batch == 6
    assert "That makes 6: 3 do not divide 8." in recipe.reasons["gradient_accumulation"]


def test_on_a_cpu_the_processes_share_cores_and_memory(planned, monkeypatch):
    monkeypatch.setattr("tunesmith.training.hardware.usable_cores", lambda: 2)
    alone, together = planned(machine=with_cards()), planned(machine=with_cards(), processes=2)
    assert together.memory.budget_gib == pytest.approx(alone.memory.budget_gib / 2, abs=0.01)
    assert any("Memory is that of each of 2 processes" in line for line in together.warnings)
    with pytest.raises(NotSupported, match=r"2 core\(s\)"):
        planned(machine=with_cards(), processes=3)


def test_a_run_takes_a_slot_for_each_of_its_cards():
    assert slots_needed(2, ["gpu:a", "gpu:b"]) == 2
    assert slots_needed(2, ["device0"]) == 1, "the one slot there is holds all"


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({"processes": 2}, (4, 2, 2)),
        ({"processes": 4}, (4, 1, 4)),
        ({"processes": 8}, (2, 1, 8)),
        ({"processes": 2, "batch_size": 1}, (1, 8, 2)),
        ({"processes": 2, "gradient_accumulation": 8}, (1, 8, 2)),
    ],
)
def test_a_resumed_training_may_have_other_processes_but_makes_the_same_steps(planned, changes, made):
    recipe = planned(batch_size=4, gradient_accumulation=4).recipe
    changed = changed_recipe(recipe, changes)
    assert (changed.batch_size, changed.gradient_accumulation, changed.processes) == made


def test_processes_that_would_change_the_steps_of_a_resumed_training_are_refused(planned):
    recipe = planned(batch_size=4, gradient_accumulation=4).recipe
    with pytest.raises(InvalidArgument, match="gradient_accumulation × processes is 4 × 4 × 1 = 16"):
        changed_recipe(recipe, {"processes": 3})
