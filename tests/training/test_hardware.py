from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.test_planning import machine
from tunesmith.errors import DoesNotFit
from tunesmith.machine.records import Gpu, GpuProcess, MachineReport
from tunesmith.training.hardware import device_slots, find_hardware
from tunesmith.training.room import wait_for_room
from tunesmith.work import Cancelled, Work


def card(index: int, total: float, *holders: tuple[str, float], capability: str = "8.9") -> Gpu:
    processes = [GpuProcess(pid=70 + index, name=name, gib=gib) for name, gib in holders]
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name=f"Card {index}",
        compute_capability=capability,
        total_gib=total,
        free_gib=total - sum(gib for _, gib in holders),
        bf16=True,
        processes=processes,
    )


def with_cards(*cards: Gpu) -> MachineReport:
    return machine().model_copy(update={"gpus": list(cards)})


@pytest.fixture(autouse=True)
def _no_choice_of_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    spec = {"run_id": "run_aaaaaaaaaaaa", "kind": "train", "args": {}, "workspace": str(tmp_path), "roots": []}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    return Work(tmp_path)


def test_each_card_as_good_as_the_planned_one_is_a_slot_of_its_own(monkeypatch):
    report = with_cards(card(0, 24), card(1, 24), card(2, 8), card(3, 24, capability="7.5"))
    assert device_slots(report) == {
        "gpu:GPU-0": {"CUDA_VISIBLE_DEVICES": "GPU-0"},
        "gpu:GPU-1": {"CUDA_VISIBLE_DEVICES": "GPU-1"},
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device_slots(report) == {"device0": {}}


def test_a_machine_with_one_card_or_none_trains_one_run_at_a_time():
    assert device_slots(with_cards(card(0, 24))) == {"device0": {}}
    assert device_slots(with_cards()) == {"device0": {}}


def test_memory_that_a_run_of_ours_holds_counts_as_free_when_the_turn_comes_and_a_strangers_does_not():
    ours = find_hardware(with_cards(card(0, 24, ("tunesmith (python)", 20))), None, None)
    theirs = find_hardware(with_cards(card(0, 24, ("ollama", 20))), None, None)
    assert ours.budget_gib == pytest.approx(24 * 0.95 - 0.5)
    assert theirs.budget_gib == pytest.approx(4 * 0.95 - 0.5)
    assert not any("tunesmith" in note for note in ours.notes)
    assert any("ollama stop" in note for note in theirs.notes)


def test_the_plan_is_for_the_card_with_the_most_room():
    assert find_hardware(with_cards(card(0, 24, ("ollama", 20)), card(1, 16)), None, None).name == "Card 1"


def test_a_run_waits_for_the_memory_that_another_program_holds_and_names_it(work: Work):
    seen = [[card(0, 24, ("ollama", 20))], [card(0, 24, ("ollama", 20))], [card(0, 24)]]
    wait_for_room(work, 10, look=lambda: seen.pop(0), patience_s=0.5)
    assert seen == []
    told = json.loads((work.run_dir / "events.jsonl").read_text().splitlines()[0])["message"]
    assert "10.0 GiB on Card 0" in told
    assert "ollama (pid 70) holds 20.0" in told


def test_a_card_that_stays_held_fails_the_run_with_the_way_to_free_it(work: Work):
    with pytest.raises(DoesNotFit, match="ollama") as caught:
        wait_for_room(work, 10, look=lambda: [card(0, 24, ("ollama", 20))], patience_s=0.1)
    assert caught.value.error_code == "gpu_busy"
    assert "ollama stop" in caught.value.next


def test_a_run_that_waits_for_a_card_can_be_cancelled(work: Work):
    work.stop_requested = True
    with pytest.raises(Cancelled):
        wait_for_room(work, 10, look=lambda: [card(0, 24, ("ollama", 20))])


def test_nothing_is_waited_for_where_it_could_never_fit_or_there_is_no_card(work: Work):
    wait_for_room(work, 30, look=lambda: [card(0, 24, ("ollama", 20))])
    wait_for_room(work, 10, look=list)
    assert not (work.run_dir / "events.jsonl").exists()
