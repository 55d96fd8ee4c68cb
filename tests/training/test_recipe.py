from __future__ import annotations

import math
from pathlib import Path

import pytest

from tunesmith.errors import InvalidArgument
from tunesmith.training.recipe import Recipe, RecipeOptions, parse_options

CONTRACT = {
    "method", "engine", "prompt_format", "rank", "alpha", "dropout", "target_modules", "epochs", "max_steps",
    "learning_rate", "scheduler", "warmup_steps", "batch_size", "gradient_accumulation", "processes", "max_length",
    "packing", "gradient_checkpointing", "optimizer", "weight_decay", "max_grad_norm", "eval_fraction", "eval_steps",
    "early_stopping_patience", "save_steps", "seed", "memory_budget_gib", "on_out_of_memory",
}  # fmt: skip


def test_options_and_recipe_have_exactly_the_fields_of_the_contract():
    assert set(RecipeOptions.model_fields) == CONTRACT
    assert set(Recipe.model_fields) == CONTRACT


def test_everything_may_be_left_out():
    assert parse_options({}).given() == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", "7"),
        ("rank", True),
        ("rank", 0),
        ("rank", 16.0),
        ("epochs", math.nan),
        ("epochs", math.inf),
        ("epochs", True),
        ("epochs", -1),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("dropout", 1),
        ("packing", 1),
        ("packing", "yes"),
        ("method", "dora"),
        ("target_modules", []),
        ("target_modules", "q_proj"),
        ("max_length", 8),
        ("seed", -1),
        ("memory_budget_gib", 0),
        ("eval_fraction", 0.9),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InvalidArgument, match=field):
        parse_options({field: value})


def test_an_unknown_field_is_refused_with_the_nearest_valid_name():
    with pytest.raises(InvalidArgument, match="did you mean learning_rate"):
        parse_options({"learning_rat": 1e-4})


def test_every_problem_is_reported_at_once():
    with pytest.raises(InvalidArgument) as caught:
        parse_options({"rank": "7", "epochs": -1, "learning_rat": 1})
    for name in ("rank", "epochs", "learning_rat"):
        assert name in caught.value.message


def test_every_contradiction_is_reported_at_once():
    with pytest.raises(InvalidArgument) as caught:
        parse_options(
            {
                "method": "full",
                "rank": 8,
                "max_steps": 5,
                "warmup_steps": 10,
                "eval_steps": 50,
                "scheduler": "constant",
                "target_modules": ["q_proj", "q_proj"],
            }
        )
    for part in ("full", "rank", "warmup_steps=10", "eval_steps=50", "constant_with_warmup", "twice"):
        assert part in caught.value.message


def test_the_schema_describes_every_field():
    for name, schema in RecipeOptions.model_json_schema()["properties"].items():
        described = schema.get("description") or any("description" in branch for branch in schema.get("anyOf", []))
        assert described, name


def test_the_page_on_training_names_every_field():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in RecipeOptions.model_fields if f"`{name}`" not in page] == []
