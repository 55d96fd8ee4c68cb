"""The bases that are known without asking."""

from __future__ import annotations

import pytest

from tunesmith.models.catalogue import BASES, KnownBase, find, suggest

# Published sizes, from the models' own cards and reports, in billions; to the digits they give. Of Gemma 3 that sees:
# embeddings and the rest of the text part, as its report has them.
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 0.135,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 0.362,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1.71,
    "HuggingFaceTB/SmolLM3-3B": 3.08,
    "Qwen/Qwen2.5-0.5B-Instruct": 0.49,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.54,
    "Qwen/Qwen2.5-3B-Instruct": 3.09,
    "Qwen/Qwen2.5-7B-Instruct": 7.61,
    "Qwen/Qwen2.5-14B-Instruct": 14.7,
    "Qwen/Qwen2.5-32B-Instruct": 32.5,
    "Qwen/Qwen2.5-72B-Instruct": 72.7,
    "Qwen/Qwen3-0.6B": 0.6,
    "Qwen/Qwen3-1.7B": 1.7,
    "Qwen/Qwen3-4B": 4.0,
    "Qwen/Qwen3-4B-Instruct-2507": 4.0,
    "Qwen/Qwen3-8B": 8.2,
    "Qwen/Qwen3-14B": 14.8,
    "Qwen/Qwen3-32B": 32.8,
    "meta-llama/Llama-3.2-1B-Instruct": 1.23,
    "meta-llama/Llama-3.2-3B-Instruct": 3.21,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03,
    "meta-llama/Llama-3.3-70B-Instruct": 70.6,
    "mistralai/Mistral-7B-Instruct-v0.3": 7.25,
    "mistralai/Mistral-Nemo-Instruct-2407": 12.2,
    "mistralai/Mistral-Small-24B-Instruct-2501": 23.6,
    "google/gemma-3-270m-it": 0.27,
    "google/gemma-3-1b-it": 1.0,
    "google/gemma-3-4b-it": 0.675 + 3.209,
    "google/gemma-3-12b-it": 1.012 + 10.759,
    "google/gemma-3-27b-it": 1.416 + 25.600,
    "microsoft/Phi-3-mini-4k-instruct": 3.8,
    "microsoft/Phi-3.5-mini-instruct": 3.8,
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


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct"),
        ("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct"),
        ("Llama 3.2 3B", "meta-llama/Llama-3.2-3B-Instruct"),
        ("gemma-3-4b", "google/gemma-3-4b-it"),
        ("gpt-9-turbo-preview", None),
    ],
)
def test_a_base_is_guessed_from_the_ways_people_write_it(written: str, meant: str | None) -> None:
    assert suggest(written) == meant


def test_what_fetching_a_base_costs_counts_the_part_that_sees() -> None:
    sizes = {base.model_id: base.download_gb for base in BASES}
    assert sizes["Qwen/Qwen2.5-7B-Instruct"] == 15.2
    assert sizes["google/gemma-3-4b-it"] == pytest.approx(8.6, abs=0.05)


def test_every_entry_says_what_a_user_must_know() -> None:
    for base in BASES:
        assert base.licence
        assert base.languages
        assert base.template in ("chatml", "llama3", "mistral", "gemma", "phi")
    assert {base.family for base in BASES if base.gated} == {"Llama 3", "Gemma 3"}
