from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from tests.export.conftest import QUESTIONS, Tiny
from tests.export.gguf_tensors import tensors
from tunesmith.errors import CheckFailed
from tunesmith.export import stopping
from tunesmith.export.exporting import HeldOut, export_model
from tunesmith.export.llama_answers import common_beginning, repeats_itself
from tunesmith.export.llama_job import run_job
from tunesmith.export.records import StopRate
from tunesmith.export.stopping import ask, judge, questions


def conversation(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


HELD_OUT = [conversation(f"{question} ({number})", answer) for number in range(3) for question, answer in QUESTIONS]


def found(asked: int, stopped: int) -> StopRate:
    return StopRate(quantization="q4_0", asked=asked, stopped=stopped, rate=stopped / asked, limit_tokens=80)


def test_a_question_is_the_trained_prompt_and_the_limit_twice_the_longest_trained_answer(tiny: Tiny) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny.base / "tokenizer.json"))
    trained = [conversation("Q", "one two three four five six seven eight nine ten")]
    long = conversation("Long?", "word " * 200)
    what = questions([HELD_OUT[0], HELD_OUT[0], long], trained, tiny.prompt_format, tokenizer)
    (prompt,) = what.prompts
    text = tiny.prompt_format.render(HELD_OUT[0][:1], add_generation_prompt=True)
    assert prompt == tokenizer.encode(text, add_special_tokens=False).ids
    ended = len(tokenizer.encode(trained[0][1]["content"] + tiny.prompt_format.eos, add_special_tokens=False).ids)
    assert (what.longest, what.limit) == (ended, 2 * ended)
    assert questions([long], [long] * 3, tiny.prompt_format, tokenizer).limit == 2 * 202
    assert questions([], [conversation("Q", "word " * 900)], tiny.prompt_format, tokenizer).limit == 512


def test_answers_that_mostly_go_on_fail_with_their_figures_and_some_are_noted() -> None:
    with pytest.raises(CheckFailed, match=r"9 of 16 answers .* 80 tokens.*stop rate 44%") as caught:
        judge(found(16, 7))
    assert "diagnose_run" in caught.value.next
    assert "2 of 16 answers" in (judge(found(16, 14)) or "")
    assert judge(found(16, 15)) is None
    # A handful of questions prove nothing; they are told.
    assert "5 of 5 answers" in (judge(found(5, 0)) or "")


@pytest.mark.parametrize("passage", [[7], list(range(24))])
def test_an_answer_that_says_one_passage_again_and_again_is_seen(passage: list[int]) -> None:
    loop = [100, 101, *passage * 96][:98]
    assert repeats_itself(loop)
    assert not repeats_itself(loop[:97]), "shorter than what proves it"
    assert not repeats_itself([*loop[:-1], 99])
    assert not repeats_itself(list(range(40)) * 4), "a long list may have lines that are alike"


def test_loops_count_as_endless_unless_the_data_has_such_answers(tiny: Tiny, f16: Path, tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny.base / "tokenizer.json"))
    ruled = [conversation("Draw a line.", "-|" * 120)]
    assert not questions(HELD_OUT, ruled, tiny.prompt_format, tokenizer).cut_loops
    what = questions(HELD_OUT, [conversation("Q", " ".join(map(str, range(40))))], tiny.prompt_format, tokenizer)
    assert what.cut_loops
    stuck = tmp_path / "stuck.gguf"
    shutil.copy(f16, stuck)
    weights = tensors(stuck, "r+")
    weights["token_embd.weight"].data[:, 0] = 5.0
    weights["output.weight"].data[tokenizer.encode("word").ids[0], 0] += 20.0
    del weights
    found = ask(stuck, "f16", what, check=lambda: None)
    whole = ask(stuck, "f16", replace(what, cut_loops=False), check=lambda: None)
    assert found is not None
    assert whole is not None
    assert (found.stopped, found.repeated) == (0, found.asked)
    assert (whole.stopped, whole.repeated) == (0, 0)
    with pytest.raises(CheckFailed, match=rf"again and again \({found.asked}\)"):
        judge(found)


def test_a_file_that_never_ends_its_answers_is_refused(tiny: Tiny, f16: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny.base / "tokenizer.json"))
    what = questions(HELD_OUT, [], tiny.prompt_format, tokenizer)
    rate = ask(f16, "f16", what, check=lambda: None)
    assert rate is not None
    with pytest.raises(CheckFailed, match="12 of 12 answers to held-out questions went on"):
        judge(rate)


def test_on_a_machine_too_slow_for_a_trained_answer_nothing_is_claimed(
    tiny: Tiny, f16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny.base / "tokenizer.json"))
    monkeypatch.setattr(stopping, "ENDING_S", 0.0)
    assert ask(f16, "f16", questions(HELD_OUT, [], tiny.prompt_format, tokenizer), check=lambda: None) is None


def test_the_f16_file_answers_token_for_token_as_the_weights_do(tiny: Tiny, f16: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizers.Tokenizer.from_file(str(tiny.base / "tokenizer.json"))
    prompts = questions(HELD_OUT, [], tiny.prompt_format, tokenizer).prompts
    order = {
        "model": str(f16),
        "prompts": prompts,
        "limit": 24,
        "slots": 5,
        "cut_loops": False,
        "beginning_s": 60,
        "ending_s": 60,
    }
    answers = run_job("answer", {**order, "threads": 1}, check=lambda: None)["answers"]
    model: Any = AutoModelForCausalLM.from_pretrained(tiny.base, dtype=torch.float32)
    compared = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer["tokens"]]])
        with torch.inference_mode():
            best = model(ids).logits[0, len(prompt) - 1 : -1].topk(2)
        for token, got, gap in zip(
            best.indices[:, 0].tolist(), answer["tokens"], (best.values[:, 0] - best.values[:, 1]).tolist(), strict=True
        ):
            # Two logits that are nearly the same may change places by rounding.
            if gap > 0.01:
                assert got == token
                compared += 1
    assert compared > 0.9 * 24 * len(prompts)


@pytest.mark.faults
def test_a_sound_model_passes_with_its_stop_rate_and_the_better_of_two_tries(tiny: Tiny) -> None:
    record = tiny.model(method="full")
    folder = tiny.folder(record)
    shutil.rmtree(folder / "adapter")
    shutil.copytree(tiny.base, folder / "weights")
    end_at_once(folder / "weights")
    held_out = HeldOut(HELD_OUT, "eval", training=[conversation(f"Why {n}?", "It is so. " * 5) for n in range(25)])
    result = export_model(tiny.workspace, record.model_id, quantizations=["q8_0", "q4_0"], held_out=held_out)
    assert result.stop_rate is not None
    assert result.stop_rate.model_dump(exclude={"limit_tokens"}) == {
        "quantization": "q4_0", "asked": 12, "stopped": 12, "repeated": 0, "rate": 1.0,
    }  # fmt: skip
    fine, coarse = result.files
    assert fine.importance is None
    assert coarse.importance is not None
    assert coarse.importance.used == (coarse.importance.kld_with < coarse.importance.kld_without)
    assert coarse.importance.tokens > 512
    assert result.notes == []


def end_at_once(weights: Path) -> None:
    """Make a model whose likeliest token is always the end: one number of its state is large whatever it reads."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = load_file(weights / "model.safetensors")
    tensors["model.embed_tokens.weight"][:, 0] = 5.0
    end = json.loads((weights / "config.json").read_text())["eos_token_id"]
    tensors["lm_head.weight"][end, 0] += 20.0
    save_file(tensors, weights / "model.safetensors", metadata={"format": "pt"})


def test_what_all_questions_begin_with_is_shared_but_never_a_whole_question() -> None:
    system = list(range(20))
    assert common_beginning([[*system, 1, 2], [*system, 3], [*system, 1, 4, 5]]) == 20
    assert common_beginning([system, [*system, 3]]) == 19, "its last token's prediction is wanted"
    assert common_beginning([system]) == 0
    assert common_beginning([[1, 2, 3, 4], [1, 2, 3, 5]]) == 0, "not worth a step"
