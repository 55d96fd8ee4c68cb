from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import pytest

from tunesmith.training import facts
from tunesmith.training.diagnosis import diagnose
from tunesmith.training.recipe import parse_options
from tunesmith.training.records import Diagnosis

# What benchmarks/training/sick_runs.py measured: one real run a line, numbers only.
KEPT = [json.loads(line) for line in Path(__file__).with_name("sick_runs.jsonl").read_text().splitlines()]

RECIPE = {
    "method": "lora",
    "rank": 16,
    "epochs": 4.0,
    "learning_rate": 2e-4,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "max_steps": None,
}


def lines(losses, evals=()):
    found = [{"step": 0, "loss": None, "eval_loss": evals[0][1]}] if evals and evals[0][0] == 0 else []
    later = dict(evals)
    for step, loss in enumerate(losses, start=1):
        found.append({"step": step, "loss": loss, "eval_loss": None, "grad_norm": 0.5})
        if step in later:
            found.append({"step": step, "loss": None, "eval_loss": later[step]})
    return found


def falling(count, first, last):
    return [last + (first - last) * math.exp(-4 * step / count) for step in range(count)]


CASES = {
    "healthy": lines(falling(60, 3.0, 1.2), [(0, 3.0), (30, 1.9), (60, 1.6)]),
    "not_learning": lines([2.5 + 0.01 * (-1) ** n for n in range(40)], [(0, 2.5), (40, 2.49)]),
    "diverged": lines([*falling(20, 3.0, 1.5), *[1.5 + 0.3 * n for n in range(20)]]),
    "overfitting": lines(falling(60, 3.0, 0.5), [(0, 3.0), (15, 1.6), (30, 1.5), (45, 1.7), (60, 1.9)]),
    "memorising": lines(falling(60, 3.0, 0.01), [(0, 3.0), (60, 1.5)]),
    "oscillating": lines([2.0 + (1.4 if n % 2 else -1.4) - n * 0.01 for n in range(60)]),
    "plateau": lines([*falling(20, 3.0, 1.5), *[1.55] * 40], [(0, 3.0), (30, 1.81), (60, 1.8)]),
    "data_suspect": lines(falling(30, 9.0, 5.0), [(0, 9.3), (30, 6.0)]),
}


@pytest.mark.parametrize("code", CASES)
def test_each_symptom_is_named_with_its_numbers(code):
    found = diagnose(CASES[code], None, None, RECIPE)
    assert found.symptoms[0].code == code, found
    assert any(letter.isdigit() for letter in found.symptoms[0].evidence)
    assert (found.health == "healthy") == (code == "healthy")


@pytest.mark.parametrize("code", [code for code in CASES if code not in ("healthy", "data_suspect")])
def test_exactly_one_change_is_suggested_and_it_is_a_valid_recipe(code):
    suggested = diagnose(CASES[code], None, None, RECIPE).suggested_recipe
    given = {name: value for name, value in RECIPE.items() if value is not None}
    assert len([name for name in given if suggested[name] != given[name]]) == 1
    parse_options(suggested)


def test_out_of_memory_is_read_from_the_error_and_from_recoveries():
    failed = diagnose([], None, {"code": "out_of_memory", "message": "no room"}, RECIPE)
    assert failed.health == "unhealthy"
    assert failed.symptoms[0].code == "out_of_memory"
    assert failed.suggested_recipe["batch_size"] == 2
    assert failed.suggested_recipe["gradient_accumulation"] == 4
    recovered = diagnose(CASES["healthy"], {"recoveries": [{"change": "batch_size 4 → 2"}]}, None, RECIPE)
    assert recovered.health == "attention"
    assert "batch_size 4 → 2" in recovered.symptoms[0].evidence
    twice = {"recoveries": [{"change": "batch_size 4 → 2"}, {"change": "batch_size 2 → 1"}]}
    assert diagnose(CASES["healthy"], twice, None, RECIPE).suggested_recipe["batch_size"] == 1


def test_a_loss_that_is_not_a_number_is_divergence():
    broken = [*CASES["healthy"], {"step": 61, "loss": "nan", "grad_norm": "inf"}]
    assert diagnose(broken, None, None, RECIPE).symptoms[0].code == "diverged"


def test_a_handful_of_steps_says_nothing():
    found = diagnose(lines([2.0, 1.9]), None, None, RECIPE)
    assert found.health == "unknown"
    assert found.symptoms == []
    assert "so far: 2, too few" in found.summary


def test_noise_of_small_batches_is_not_a_symptom():
    draw = random.Random(5)
    noisy = [loss * draw.uniform(0.8, 1.2) for loss in falling(56, 3.6, 2.0)]
    assert diagnose(lines(noisy, [(0, 3.7), (28, 2.6), (56, 2.4)]), None, None, RECIPE).health == "healthy"


def test_a_held_out_loss_that_still_falls_is_no_plateau():
    still = lines([*falling(20, 3.0, 1.5), *[1.55] * 40], [(0, 3.0), (30, 1.9), (60, 1.8)])
    assert diagnose(still, None, None, RECIPE).health == "healthy"


def test_damaged_lines_are_passed_over():
    assert diagnose([{}, {"step": "x"}, {"step": 1}], None, None, {}).health == "unknown"


def kept_lines(columns):
    """The lines of `metrics.jsonl` that a kept run's columns were made of."""
    names = ("step", "loss", "grad_norm")
    steps = [dict(zip(names, values, strict=True)) for values in zip(*(columns[name] for name in names), strict=True)]
    return steps + [{"step": step, "loss": None, "eval_loss": loss} for step, loss in columns["held_out"]]


def diagnosis_of(run):
    return diagnose(
        kept_lines(run["metrics"]), run["result"], run["error"], run["recipe"], facts.from_json(run["facts"])
    )


def first(found):
    return found.symptoms[0].code if found.symptoms else found.health


def test_of_real_sick_runs_nine_in_ten_are_rightly_named():
    sick = [run for run in KEPT if run["expected"] != ["healthy"]]
    assert len({run["name"] for run in sick}) >= 20
    wrong = [f"{run['name']}, seed {run['seed']}" for run in sick if first(diagnosis_of(run)) not in run["expected"]]
    assert len(wrong) <= len(sick) // 10, wrong


def test_no_real_healthy_run_is_called_sick():
    well = [run for run in KEPT if run["expected"] == ["healthy"]]
    assert len({run["name"] for run in well}) >= 10
    assert [run["name"] for run in well if diagnosis_of(run).health != "healthy"] == []


def test_what_is_suggested_for_a_real_run_differs_from_its_recipe_and_is_valid():
    for run in KEPT:
        found = diagnosis_of(run)
        if not found.suggested_recipe:
            assert first(found) in ("healthy", "unknown", "data_suspect"), run["name"]
            continue
        parse_options(found.suggested_recipe)
        suggested = found.suggested_recipe
        changed = {name for name, value in suggested.items() if run["recipe"][name] != value}
        changed |= {"target_modules"} - suggested.keys()
        # Out of memory, two fields are one change: the effective batch stays.
        assert len(changed) == 1 or changed == {"batch_size", "gradient_accumulation"}, (run["name"], changed)


def test_a_shorter_run_leaves_what_follows_from_its_length_to_the_planner():
    recipe = {**RECIPE, "warmup_steps": 10, "eval_steps": 40, "save_steps": 40, "max_steps": 60}
    suggested = diagnose(CASES["overfitting"], None, None, recipe).suggested_recipe
    assert suggested["max_steps"] == 30
    assert not {"warmup_steps", "eval_steps", "save_steps"} & suggested.keys()


HOSTILE_VALUES = (
    None, True, "", "nan", "NaN", "-inf", "1.5", [], {}, 10**400, -(10**400), float("nan"), float("inf"), -1, 0, 1e308
)  # fmt: skip


@pytest.mark.parametrize("field", ["step", "loss", "eval_loss", "grad_norm", "learning_rate"])
def test_whatever_a_line_holds_there_is_a_diagnosis(field):
    for value in HOSTILE_VALUES:
        damaged = [{**line, field: value} if at % 3 == 0 else line for at, line in enumerate(CASES["healthy"])]
        Diagnosis.model_validate(diagnose(damaged, None, None, RECIPE).model_dump())
        Diagnosis.model_validate(diagnose([{field: value}], None, None, RECIPE).model_dump())
        Diagnosis.model_validate(
            diagnose([{"step": at, field: value} for at in range(50)], None, None, {}).model_dump()
        )


@pytest.mark.parametrize(
    "recipe",
    [{}, {"epochs": "x", "rank": None, "batch_size": [1]}, {"unknown": 1}, {"learning_rate": True}, {"max_steps": -3}],
)
@pytest.mark.parametrize("code", CASES)
def test_a_damaged_recipe_gives_no_suggestion_or_a_valid_one(code, recipe):
    parse_options(diagnose(CASES[code], None, None, recipe).suggested_recipe)


@pytest.mark.parametrize("result", [{}, {"recoveries": "x"}, {"recoveries": [1, {}]}, {"recoveries": None}])
def test_a_damaged_result_is_passed_over(result):
    for error in (None, {}, {"code": None, "message": 3}, {"code": "out_of_memory"}):
        Diagnosis.model_validate(diagnose(CASES["healthy"], result, error, RECIPE).model_dump())


def test_a_run_that_has_hardly_begun_is_not_called_sick_and_one_that_ended_so_is():
    begun = lines([2.5] * 12, [(0, 2.5), (6, 2.5)])
    assert diagnose(begun, None, None, RECIPE).symptoms[0].code == "healthy"
    assert diagnose(begun, {"recoveries": []}, None, RECIPE).symptoms[0].code == "not_learning"


def test_a_run_that_was_killed_is_not_called_healthy():
    error = {"code": "lost", "message": "All of its processes are gone.", "next": "Start it again."}
    found = diagnose(CASES["healthy"], None, error, RECIPE)
    assert found.health == "attention"
    assert "lost" in found.summary


@pytest.mark.slow
def test_a_million_steps_are_diagnosed_in_seconds():
    losses = falling(1_000_000, 3.0, 1.2)
    began = time.process_time()
    found = diagnose(lines(losses, [(0, 3.0), (500_000, 1.9), (1_000_000, 1.6)]), None, None, RECIPE)
    assert found.health == "healthy"
    assert time.process_time() - began < 30
