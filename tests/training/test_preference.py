"""Preference training (DPO) through the same planner and worker as every other training."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from typing import Any

import pytest

from tests.training.conftest import (
    adapter_of,
    arguments_for,
    curve_of,
    kill,
    largest_difference,
    make_rows,
    metrics_of,
    outcome,
    wait_for_step,
)
from tunesmith.data.records import Message
from tunesmith.errors import BadInput, NotSupported
from tunesmith.models.bases import prompt_format_for, tokenizer_for
from tunesmith.training.diagnosis import diagnose
from tunesmith.training.examples import IGNORED, tokenise
from tunesmith.training.fact_records import Facts
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import parse_options
from tunesmith.training.records import AssumedGpu, TrainResult
from tunesmith.work import EXIT_CANCELLED

LN2 = math.log(2)


def make_pairs(count: int):
    return [
        row.model_copy(update={"rejected": f"Lamp {number} is broken, I fear."})
        for number, row in enumerate(make_rows(count))
    ]


@pytest.fixture
def planned(workspace, new_dataset, tiny_base):
    def make(rows, *, assume_gpu=None, **options):
        return plan(
            workspace, new_dataset(rows), str(tiny_base), parse_options(options), assume_gpu=assume_gpu, machine=None
        )

    return make


def test_pairs_are_planned_as_preference_training_with_the_reasons(planned) -> None:
    pairs, plain = planned(make_pairs(24)), planned(make_rows(24))
    assert (pairs.objective, plain.objective) == ("dpo", "sft")
    assert "rejected answer" in pairs.reasons["objective"]
    assert pairs.recipe.learning_rate < plain.recipe.learning_rate
    assert "A tenth" in pairs.reasons["learning_rate"]
    assert pairs.recipe.epochs == 3
    on_card = planned(make_pairs(24), assume_gpu=AssumedGpu(total_gib=24, compute_capability="8.9"))
    assert (on_card.recipe.engine, on_card.recipe.packing) == ("transformers", False)
    assert on_card.recipe.max_length == pairs.recipe.max_length  # not the length of packed sequences
    assert on_card.recipe.effective_batch == pairs.recipe.effective_batch
    assert not any("processes" in other.change for other in on_card.alternatives)
    assert "transformers engine" in on_card.reasons["engine"]
    assert planned(make_pairs(24), learning_rate=1e-3).recipe.learning_rate == 1e-3


def test_both_answers_are_counted_as_tokens_and_memory(planned) -> None:
    same = {"batch_size": 4, "gradient_accumulation": 2, "epochs": 1, "learning_rate": 1e-4}
    pairs, plain = planned(make_pairs(24), **same), planned(make_rows(24), **same)
    assert 1.8 * plain.tokens.real < pairs.tokens.real < 2.2 * plain.tokens.real
    assert pairs.tokens.total >= pairs.tokens.real
    assert pairs.memory.breakdown.activations > 1.8 * plain.memory.breakdown.activations


def test_rows_with_and_without_a_rejected_answer_are_refused_together(planned) -> None:
    with pytest.raises(BadInput, match="4 of 24 rows have a rejected answer and 20 have none") as caught:
        planned([*make_pairs(4), *make_rows(24)[4:]])
    assert "rejected_missing" in caught.value.next


@pytest.mark.parametrize(
    ("options", "name"),
    [({"method": "full"}, "method='full'"), ({"packing": True}, "packing=True"), ({"engine": "unsloth"}, "engine=")],
)
def test_what_pairs_cannot_be_trained_with_is_refused_by_name(planned, options, name) -> None:
    with pytest.raises(NotSupported, match=name):
        planned(make_pairs(24), **options, assume_gpu=AssumedGpu(total_gib=80, compute_capability="9.0"))


def test_a_pair_is_one_prompt_with_two_answers_of_which_only_the_last_turn_counts(workspace, tiny_base) -> None:
    first = [Message(role="user", content="Hello"), Message(role="assistant", content="Good day.")]
    row = make_pairs(1)[0]
    row = row.model_copy(update={"messages": [*first, *row.messages]})
    tokenizer = tokenizer_for(workspace, str(tiny_base))
    (pair,) = tokenise([row], prompt_format_for(workspace, str(tiny_base), "chat"), tokenizer)
    assert pair.rejected is not None
    texts = [
        tokenizer.decode([label for label in answer.labels if label != IGNORED], skip_special_tokens=False)
        for answer in pair.answers
    ]
    assert texts == ["Lamp 0 shines red.<|im_end|>", "Lamp 0 is broken, I fear.<|im_end|>"]
    starts = [next(at for at, label in enumerate(answer.labels) if label != IGNORED) for answer in pair.answers]
    assert pair.input_ids[: starts[0]] == pair.rejected.input_ids[: starts[1]]
    short = pair.cut(40)
    assert short.was_cut
    assert [len(answer.input_ids) for answer in short.answers] == [40, 40]


@pytest.mark.slow
def test_the_chosen_answers_gain_on_the_rejected_ones(workspace, planned, start_worker) -> None:
    before = planned(make_pairs(24), epochs=4, learning_rate=0.01, rank=4, eval_steps=3, save_steps=6)
    process, run_dir = start_worker(start_arguments(before))
    result = TrainResult.model_validate(outcome(process, run_dir)["result"])
    assert (result.objective, result.steps, result.perplexity) == ("dpo", before.steps, None)

    lines = metrics_of(run_dir)
    losses = [line for line in lines if line["loss"] is not None]
    looks = [line for line in lines if line["eval_loss"] is not None]
    assert looks[0]["eval_loss"] == pytest.approx(LN2, abs=1e-6)
    assert looks[0]["reward_margin"] == 0
    assert losses[0]["loss"] == pytest.approx(LN2, abs=1e-3)
    margins = [line["reward_margin"] for line in looks]
    assert margins == sorted(margins)
    assert margins[-1] > 0.1
    assert losses[-1]["reward_margin"] > 0.1
    assert result.rewards is not None
    assert (result.rewards.accuracy, result.rewards.margin) == (1.0, margins[-1])
    assert result.eval_loss.before == pytest.approx(LN2, abs=1e-6)
    assert result.eval_loss.after < 0.65
    assert result.diagnosis.health == "healthy"
    assert "not judged" in result.diagnosis.summary
    assert all("ref" not in name for name in adapter_of(workspace, result.model_dump()))
    again = plan(workspace, before.dataset_id, before.base_model, parse_options({}))
    assert again.eta_s is not None  # the run was measured


@pytest.mark.faults
@pytest.mark.parametrize("how", ["killed", "cancelled"])
def test_preference_training_that_goes_on_ends_like_an_undisturbed_one(
    workspace, new_dataset, tiny_base, start_worker, how
) -> None:
    arguments = arguments_for(workspace, new_dataset(make_pairs(24)), tiny_base, epochs=6)
    quiet, quiet_dir = start_worker(arguments)
    process, run_dir = start_worker(arguments)
    wait_for_step(process, run_dir, 5)
    if how == "killed":
        kill(process)
    else:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == EXIT_CANCELLED
    resumed, resumed_dir = start_worker({**arguments, "resume_from": run_dir.name})
    result, expected = outcome(resumed, resumed_dir)["result"], outcome(quiet, quiet_dir)["result"]
    assert result["resumed_from"]["step"] >= 4
    # The reference of a row is computed in the batch it first comes in, which may be another after a resume.
    assert largest_difference(adapter_of(workspace, result), adapter_of(workspace, expected)) < 1e-5
    assert curve_of(resumed_dir) == pytest.approx(curve_of(quiet_dir), rel=1e-4)
    assert result["rewards"] == pytest.approx(expected["rewards"], rel=1e-4)


@pytest.mark.faults
def test_out_of_memory_halves_the_batch_of_pairs(workspace, new_dataset, tiny_base, start_worker) -> None:
    arguments = arguments_for(workspace, new_dataset(make_pairs(24)), tiny_base, epochs=3)
    left = outcome(*start_worker(arguments, TUNESMITH_TEST_OUT_OF_MEMORY="step:6"))
    result = TrainResult.model_validate(left["result"])
    assert [step.change for step in result.recoveries] == ["batch_size 4 → 2, gradient_accumulation 2 → 4"]
    assert result.diagnosis.symptoms[0].code == "out_of_memory"


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_trls_own_trainer(workspace, planned, tiny_base, tmp_path) -> None:
    torch = pytest.importorskip("torch")
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from tunesmith.training.engines.preference import PreferenceTrainer
    from tunesmith.training.engines.sft import build_trainer
    from tunesmith.training.engines.transformers_engine import load
    from tunesmith.training.objectives import BETA
    from tunesmith.training.passes import Passes

    recipe = planned(make_pairs(8), rank=4).recipe
    rows = make_pairs(3)
    prompt_format, tokenizer = (
        prompt_format_for(workspace, str(tiny_base), "chat"),
        tokenizer_for(workspace, str(tiny_base)),
    )
    pairs = [replace(pair, row_id=str(at)) for at, pair in enumerate(tokenise(rows, prompt_format, tokenizer))]
    loaded = load(tiny_base, recipe, "float32")
    ours: Any = build_trainer(
        loaded,
        recipe,
        kind=PreferenceTrainer,
        train=pairs,
        held_out=pairs,
        steps=1,
        root=tmp_path / "ours",
        callback=TrainerCallback(),
        passes=Passes(),
        on_less=lambda *_: None,
    )
    said = {"prompt": ["x"], "chosen": ["y"], "rejected": ["z"]}
    theirs = DPOTrainer(
        loaded.model,
        args=DPOConfig(
            str(tmp_path / "theirs"), beta=BETA, use_cpu=True, bf16=False, max_length=None, report_to="none"
        ),
        train_dataset=Dataset.from_dict(said),
        processing_class=loaded.tokenizer,
    )
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if "lora_B.default" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)), std=0.05)
    batch = ours._collated([{name: cell[at] for name, cell in ours.columns(pairs).items()} for at in range(3)])
    mine = ours.compute_loss(loaded.model, batch)
    trained = [weight for name, weight in loaded.model.named_parameters() if ".default." in name]
    my_gradient = torch.autograd.grad(mine, trained)
    labelled = batch["labels"] != IGNORED
    expected = theirs.compute_loss(
        loaded.model,
        {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "completion_mask": labelled.long(),
        },
    )
    assert abs(float(mine.detach()) - LN2) > 1e-3
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(my_gradient, torch.autograd.grad(expected, trained), rtol=1e-4, atol=1e-6)


def facts_of_pairs() -> Facts:
    shares = {name: 0.0 for name, field in Facts.model_fields.items() if field.annotation is float}
    return Facts.model_validate(
        {"objective": "dpo", "rows": 90, "held_out": 10, "vocabulary": 1000, "distinct_answers": 90, **shares}
    )


def run_of(looks: list[float], end: float, accuracy: float = 0.8):
    steps = 30
    lines = [{"step": step, "loss": LN2 + (end - LN2) * step / steps} for step in range(1, steps + 1)]
    for number, loss in enumerate(looks):
        step = number * steps // (len(looks) - 1)
        lines.append({"step": step, "eval_loss": loss, "reward_accuracy": accuracy, "reward_margin": 0.3})
    return lines


@pytest.mark.parametrize(
    ("looks", "end", "accuracy", "code"),
    [
        ([LN2, 0.66, 0.62, 0.61], 0.55, 0.8, "healthy"),
        ([LN2, 0.69, 0.688, 0.688], 0.68, 0.75, "healthy"),  # a small fall, but most pairs are put right
        ([LN2, 0.693, 0.6925, 0.693], 0.69, 0.5, "not_learning"),
        ([LN2, 0.60, 0.62, 0.66], 0.05, 0.7, "overfitting"),
        ([LN2, 0.65, 0.8, 1.1], 0.01, 0.4, "diverged"),
    ],
)
def test_a_preference_run_is_judged_by_what_its_loss_means(looks, end, accuracy, code) -> None:
    recipe = {"learning_rate": 2e-5, "epochs": 3, "batch_size": 4, "gradient_accumulation": 2, "rank": 16}
    found = diagnose(run_of(looks, end, accuracy), {"recoveries": []}, None, recipe, facts_of_pairs())
    assert found.symptoms[0].code == code
    if code not in ("healthy",):
        assert found.suggested_recipe
