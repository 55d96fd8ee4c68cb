"""The memory model against what trainings on a card reserved at their peak (benchmarks/training/memory.py)."""

import json
import sys
from pathlib import Path

import pytest

from tunesmith.training.memory import Load, Shape, predict, total

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "training"
POINTS = [json.loads(line) for line in (BENCHMARKS / "memory_points.jsonl").read_text().splitlines()]


def predicted(point):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from setting import SHAPES
    finally:
        sys.path.remove(str(BENCHMARKS))
    shape = Shape.from_config(SHAPES[point["model"]])
    full = point["method"] == "full"
    load = Load(
        device="cuda",
        method=point["method"],
        engine=point["engine"],
        rank=point["rank"] or 0,
        targets=() if full else tuple(shape.modules),
        dropout=point["dropout"] or 0.0,
        batch_size=point["batch_size"],
        length=point["max_length"],
        recompute=point["gradient_checkpointing"] == "on",
        optimizer=point["optimizer"],
        masked=point["packing"] and point["engine"] == "unsloth",
        packed=point["packing"],
        compiled=point["compiled"],
        accumulates=point["gradient_accumulation"] > 1,
    )
    return total(predict(shape, load))


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point['model']}-{point['engine']}-{point['method']}")
def test_the_peak_is_predicted_within_a_tenth(point):
    assert predicted(point) == pytest.approx(point["measured_gib"], rel=0.1)


def test_the_points_cover_what_a_plan_may_hold():
    assert len(POINTS) >= 16
    for name, values in {
        "model": {"7B", "3B", "0.5B"},
        "engine": {"unsloth", "transformers"},
        "method": {"qlora", "lora", "full"},
        "packing": {True, False},
        "compiled": {True, False},
        "gradient_checkpointing": {"on", "off"},
    }.items():
        assert values <= {point[name] for point in POINTS}
