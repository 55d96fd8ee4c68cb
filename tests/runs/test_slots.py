"""Runs that need several slots at once: all of them or none, in their turn, and told which they got."""

from __future__ import annotations

import sys

import pytest

from tests.runs.conftest import NEVER, WORKER, began, ended
from tunesmith.errors import InvalidArgument
from tunesmith.runs.states import QUEUED
from tunesmith.runs.supervisor import Supervisor

CARDS = ("gpu:a", "gpu:b", "gpu:c")
DEVICES = {card: {"CUDA_VISIBLE_DEVICES": card[-1]} for card in CARDS}
TELLS_ITS_CARDS = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]


def test_a_run_that_needs_two_cards_gets_both_and_gives_both_back(runs: Supervisor) -> None:
    pair = runs.submit("train", WORKER, {"until": NEVER}, slots=CARDS, slots_needed=2)
    single = runs.submit("train", WORKER, {"until": NEVER}, slots=CARDS)
    third = runs.submit("train", WORKER, {}, slots=CARDS[:2])
    began(runs, pair)
    assert runs.row(pair).held == ("gpu:a", "gpu:b")
    assert runs.row(single).held == ("gpu:c",)
    assert pair in runs.view(third).progress.message
    runs.cancel(pair)
    assert ended(runs, pair).state == "cancelled"
    assert runs.row(pair).held == ()
    assert ended(runs, third).state == "succeeded"
    runs.cancel(single)
    ended(runs, single)


def test_a_run_that_waits_for_several_cards_is_not_overtaken(runs: Supervisor) -> None:
    store = runs.store
    claimed = []

    def claim() -> str | None:
        row = store.claim_next()
        claimed.extend([row.run_id] if row else [])
        return row.run_id if row else None

    def end(run_id: str) -> None:
        assert store.begin(run_id)
        assert store.conclude(run_id, lambda _wished: ("succeeded", None))

    store.insert("run_one", "train", CARDS[:2])
    assert claim() == "run_one"
    store.insert("run_pair", "train", CARDS[:2], slots_needed=2)
    for number in range(3):
        store.insert(f"run_later{number}", "train", CARDS[:2])
    store.insert("run_elsewhere", "train", CARDS)
    assert claim() == "run_elsewhere", "the card that the pair cannot use is not kept for it"
    assert claim() is None, "the free card is kept for the pair"
    end("run_one")
    assert claim() == "run_pair"
    assert store.get("run_pair").held == CARDS[:2]
    assert claim() is None
    end("run_pair")
    assert [claim(), claim(), claim()] == ["run_later0", "run_later1", None]
    assert store.get("run_later2").state == QUEUED


def test_the_variables_of_several_slots_are_joined(runs: Supervisor) -> None:
    run_id = runs.submit("train", TELLS_ITS_CARDS, {}, slots=CARDS, slots_needed=3, environment=DEVICES)
    assert ended(runs, run_id).log_tail == ["a,b,c"]


def test_a_run_that_could_never_get_its_slots_is_refused(runs: Supervisor) -> None:
    with pytest.raises(InvalidArgument, match="needs 4 of 3"):
        runs.submit("train", WORKER, {}, slots=CARDS, slots_needed=4)
    assert list(runs.workspace.runs.iterdir()) == []
