"""What fits which card, and what "auto" takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.training.test_planning import machine, plan_shape
from tunesmith.machine.recommend import recommend
from tunesmith.machine.records import Gpu
from tunesmith.models.catalogue import BASES, KnownBase, find
from tunesmith.training.base_choice import LADDER, choose_base, licence_note, smaller_bases, ways
from tunesmith.training.hardware import Hardware, find_hardware
from tunesmith.training.records import AssumedGpu

CPU = Hardware("cpu", "CPU", 16.0, 0.0, assumed=False, unsloth=False, bitsandbytes=False)
SEVEN = "Qwen/Qwen2.5-7B-Instruct"


def base_of(name: str) -> KnownBase:
    found = find(name)
    assert found is not None
    return found


def card(gib: float) -> Hardware:
    return find_hardware(None, AssumedGpu(total_gib=gib), None)


def nothing(_: str) -> bool:
    return False


def chosen(gib: float, languages=None, here=nothing) -> tuple[str, str]:
    return choose_base(languages or {"en": 1}, card(gib), here)


@pytest.mark.parametrize(("gib", "size"), [(4, "1.5B"), (6, "4B"), (8, "4B"), (12, "7B"), (24, "7B"), (80, "7B")])
def test_auto_takes_the_largest_that_trains_with_room_to_spare(gib, size):
    base, reason = chosen(gib, {"zh": 60, "en": 40})
    assert f"-{size}-" in base
    assert "60% of the rows are Chinese" in reason
    assert any(way.fits == "yes" for way in ways(base_of(base), card(gib)))


@pytest.mark.parametrize("gib", [3, 4, 6, 8, 10, 12, 16, 24, 40, 48, 80])
def test_check_gpu_recommends_what_auto_takes(gib):
    report = machine(packages=("unsloth", "bitsandbytes"))
    gpu: Gpu = report.gpus[0].model_copy(update={"total_gib": float(gib), "free_gib": float(gib)})
    recommended = recommend([gpu], report.torch, report.packages)
    assert recommended.base_model == chosen(gib)[0]
    assert recommended.method == plan_shape(recommended.base_model, AssumedGpu(total_gib=gib))[0]


def test_seven_billion_is_tight_on_eight_gib_and_smaller_ones_are_offered():
    by_method = {way.method: way.fits for way in ways(base_of(SEVEN), card(8))}
    assert by_method == {"qlora": "tight", "lora": "no", "full": "no"}
    offered = [base.model_id for base in smaller_bases(base_of(SEVEN), 7.6, card(8), {"zh": 1})]
    assert offered == ["Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen3-4B-Instruct-2507"]
    assert "research use only" in licence_note(base_of(offered[0]))


def test_weights_that_are_here_are_preferred_when_not_much_smaller():
    base, reason = chosen(24, here=lambda name: name == LADDER[1])
    assert base == LADDER[1]
    assert SEVEN in reason
    assert "15.2 GB" in reason
    assert chosen(24, here=lambda name: name == LADDER[-1])[0] == SEVEN


def test_every_base_that_auto_can_take_is_free_to_use_and_to_fetch():
    for base in map(base_of, LADDER):
        assert base.licence == "Apache-2.0"
        assert not base.gated
        assert {"zh", "en"} <= set(base.languages)


def test_without_a_card_the_embedded_model_is_taken_and_chinese_is_warned_of():
    base, reason = choose_base({"en": 90, "zh": 10}, CPU, nothing)
    assert (base, "Warning" in reason) == ("embedded", False)
    base, reason = choose_base({"zh": 80, "en": 20}, CPU, nothing)
    assert base == "embedded"
    assert "80% of the rows are Chinese" in reason
    assert "English only" in reason
    assert choose_base({"zh": 80}, CPU, lambda name: name == LADDER[-1])[0] == LADDER[-1]


def test_a_card_too_small_for_anything_else_gets_the_embedded_model():
    assert chosen(1.5)[0] == "embedded"
    assert choose_base({}, card(1.5), nothing)[0] == "embedded"


def test_other_languages_are_pointed_out():
    assert "neither English nor Chinese" in chosen(12, {"other": 5, "en": 5})[1]


def test_every_base_can_be_predicted_on_a_card_and_on_a_processor():
    for base in BASES:
        if base.sees:
            assert ways(base, card(80)) == []
            continue
        on_card = {way.method: way.needs_gib for way in ways(base, card(80))}
        assert 0 < on_card["qlora"] < on_card["lora"] < on_card["full"]
        assert [way.method for way in ways(base, CPU)] == ["lora", "full"]
    assert all(way.fits == "yes" for way in ways(base_of("embedded"), replace(CPU, budget_gib=None)))
