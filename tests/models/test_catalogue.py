"""The bases that are known without asking, and the choice among them."""

from __future__ import annotations

import pytest

from tunesmith.models.catalogue import BASES, KnownBase, choose_base, find

# Published sizes, from the models' own cards, in billions; to the digits they give.
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 0.135,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 0.362,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1.71,
    "Qwen/Qwen2.5-0.5B-Instruct": 0.49,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.54,
    "Qwen/Qwen2.5-3B-Instruct": 3.09,
    "Qwen/Qwen2.5-7B-Instruct": 7.61,
    "Qwen/Qwen2.5-14B-Instruct": 14.7,
    "Qwen/Qwen2.5-32B-Instruct": 32.5,
    "Qwen/Qwen3-0.6B": 0.6,
    "Qwen/Qwen3-1.7B": 1.7,
    "Qwen/Qwen3-4B": 4.0,
    "Qwen/Qwen3-8B": 8.2,
    "Qwen/Qwen3-14B": 14.8,
    "Qwen/Qwen3-32B": 32.8,
    "meta-llama/Llama-3.2-1B-Instruct": 1.23,
    "meta-llama/Llama-3.2-3B-Instruct": 3.21,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03,
    "meta-llama/Llama-3.3-70B-Instruct": 70.6,
    "mistralai/Mistral-7B-Instruct-v0.3": 7.25,
    "google/gemma-3-270m-it": 0.27,
    "google/gemma-3-1b-it": 1.0,
    "microsoft/Phi-3-mini-4k-instruct": 3.8,
    "microsoft/Phi-4-mini-instruct": 3.8,
    "microsoft/phi-4": 14.7,
}


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.model_id)
def test_the_shape_of_each_base_adds_up_to_its_size(base: KnownBase) -> None:
    assert base.count_parameters() / 1e9 == pytest.approx(base.parameters_b, rel=0.005)
    if base.model_id in PUBLISHED:
        assert base.parameters_b == pytest.approx(PUBLISHED[base.model_id], rel=0.02)


def test_every_base_is_there_once_and_is_found_whatever_its_capitals() -> None:
    assert len({base.model_id for base in BASES}) == len(BASES)
    assert {base.model_id for base in BASES} == {*PUBLISHED, "embedded"}
    found = find("qwen/qwen2.5-7b-instruct")
    assert found is not None
    assert found.model_id == "Qwen/Qwen2.5-7B-Instruct"
    assert find("nobody/nothing") is None


def test_the_embedded_base_is_as_its_file_says(embedded_base: object) -> None:
    import json
    from pathlib import Path

    assert isinstance(embedded_base, Path)
    config = json.loads((embedded_base / "config.json").read_text(encoding="utf-8"))
    known = find("embedded")
    assert known is not None
    assert {name: config[name] for name in known.config()} == known.config()


def test_without_a_card_the_embedded_model_is_chosen_and_chinese_is_warned_of() -> None:
    model, reason = choose_base({"en": 90, "zh": 10, "other": 0}, None, cuda=False)
    assert (model, "Warning" in reason) == ("embedded", False)
    model, reason = choose_base({"zh": 80, "en": 20}, None, cuda=False)
    assert model == "embedded"
    assert "80% of the rows are Chinese" in reason
    assert "English" in reason


@pytest.mark.parametrize(
    ("budget", "size"), [(80.0, "7B"), (15.0, "7B"), (7.6, "3B"), (5.5, "1.5B"), (3.5, "0.5B"), (None, "1.5B")]
)
def test_with_a_card_the_largest_that_trains_comfortably_is_chosen(budget: float | None, size: str) -> None:
    model, reason = choose_base({"zh": 60, "en": 40}, budget, cuda=True)
    assert model == f"Qwen/Qwen2.5-{size}-Instruct"
    assert "60% of the rows are Chinese" in reason
    if size == "3B":
        assert "research" in reason


def test_a_tiny_card_gets_the_embedded_model() -> None:
    assert choose_base({"en": 1}, 2.0, cuda=True)[0] == "embedded"
    assert choose_base({}, 2.0, cuda=True)[0] == "embedded"
