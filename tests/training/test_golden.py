"""A whole training against the losses it once gave: what changes them changes what people's runs learn."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.training.conftest import curve_of, make_rows, outcome
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import parse_options

OPTIONS = {
    "max_steps": 6,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "rank": 4,
    "dropout": 0.0,
    "eval_steps": 3,
    "save_steps": 6,
    "seed": 42,
    "eval_fraction": 0.2,
}
# Nats per trained token, computed in float32 on a CPU. Another processor adds in another order; the first step does not
# depend on the adapter's random numbers, the later ones do.
GOLDEN = {
    "eval_loss 0": 5.50869,
    "loss 1": 5.54837,
    "loss 2": 5.48064,
    "loss 3": 5.37729,
    "eval_loss 3": 5.27953,
    "loss 4": 5.28567,
    "loss 5": 5.20826,
    "loss 6": 5.17548,
    "eval_loss 6": 5.17883,
}


@pytest.fixture
def fixed_base(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny Llama with weights that no version of a library draws otherwise."""
    folder = tmp_path / "fixed"
    shutil.copytree(tiny_base, folder)
    path = folder / "model.safetensors"
    draw = np.random.RandomState(7)  # whose numbers NumPy promises never to change
    weights = {}
    for name, weight in sorted(load_file(path).items()):
        drawn = draw.standard_normal(weight.shape).astype(np.float32) * 0.08
        weights[name] = np.ones_like(drawn) if "norm" in name else drawn
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.mark.slow
def test_a_training_gives_the_losses_it_gave_before(workspace, new_dataset, fixed_base, start_worker):
    planned = plan(workspace, new_dataset(make_rows(40)), str(fixed_base), parse_options(OPTIONS))
    process, run_dir = start_worker(start_arguments(planned))
    left = outcome(process, run_dir)
    assert "result" in left, left
    result = left["result"]

    if result["dtype"] != "float32":
        pytest.skip(f"this processor trains in {result['dtype']}")
    curve = curve_of(run_dir)
    assert list(curve) == list(GOLDEN)
    for name, loss in curve.items():
        early = name in ("eval_loss 0", "loss 1", "loss 2")
        assert loss == pytest.approx(GOLDEN[name], rel=1e-3 if early else 5e-3), (name, curve)
