from __future__ import annotations

import math
import random

import pytest

from tunesmith.training.diagnosis import diagnose
from tunesmith.training.recipe import parse_options

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


def test_a_loss_that_is_not_a_number_is_divergence():
    broken = [*CASES["healthy"], {"step": 61, "loss": "nan", "grad_norm": "inf"}]
    assert diagnose(broken, None, None, RECIPE).symptoms[0].code == "diverged"


def test_a_handful_of_steps_says_nothing():
    found = diagnose(lines([2.0, 1.9]), None, None, RECIPE)
    assert found.health == "unknown"
    assert found.symptoms == []
    assert "2 steps" in found.summary


def test_noise_of_small_batches_is_not_a_symptom():
    draw = random.Random(5)
    noisy = [loss * draw.uniform(0.8, 1.2) for loss in falling(56, 3.6, 2.0)]
    assert diagnose(lines(noisy, [(0, 3.7), (28, 2.6), (56, 2.4)]), None, None, RECIPE).health == "healthy"


def test_a_held_out_loss_that_still_falls_is_no_plateau():
    still = lines([*falling(20, 3.0, 1.5), *[1.55] * 40], [(0, 3.0), (30, 1.9), (60, 1.8)])
    assert diagnose(still, None, None, RECIPE).health == "healthy"


def test_damaged_lines_are_passed_over():
    assert diagnose([{}, {"step": "x"}, {"step": 1}], None, None, {}).health == "unknown"
