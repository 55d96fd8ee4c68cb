from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from tests.export.conftest import Tiny
from tests.export.gguf_tensors import tensors
from tunesmith.export import gguf
from tunesmith.export.adapter_kept import Changed, note_on, sample_changes, share_kept
from tunesmith.export.exporting import HeldOut, export_model
from tunesmith.machine.llama_cpp import find_llama_cpp

Q4_1 = GGMLQuantizationType.Q4_1


def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def changes(f16: Path) -> list[Changed]:
    """As if the tiny model had been made from weights of sixteen values a block by a change too small to leave them."""
    found = []
    draw = np.random.default_rng(5)
    for name, tensor in tensors(f16).items():
        if ".ffn_" in name and tensor.data.ndim == 2:
            base = quants.dequantize(quants.quantize(tensor.values[:128], Q4_1), Q4_1)
            found.append(Changed(name, base, draw.normal(0, 0.03 * base.std(), base.shape).astype(np.float32)))
    return found


def written(f16: Path, changes: list[Changed], output: Path, factor: float) -> Path:
    """The tiny model with its weights at base + factor x change."""
    shutil.copy(f16, output)
    stored = tensors(output, "r+")
    for one in changes:
        stored[one.name].data[:128] = (one.base + factor * one.change).astype(np.float16)
    return output


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.0])
def test_the_share_is_how_far_the_file_goes_from_the_base_towards_the_adapter(
    f16: Path, changes: list[Changed], tmp_path: Path, factor: float
) -> None:
    assert share_kept(changes, written(f16, changes, tmp_path / "file.gguf", factor)) == pytest.approx(factor, abs=0.01)


def test_rounding_to_the_bases_own_grid_loses_what_was_learned_and_a_finer_one_does_not(
    f16: Path, changes: list[Changed], tmp_path: Path
) -> None:
    stored = written(f16, changes, tmp_path / "merged.gguf", 1.0)
    kept = {}
    for kind in ("Q4_1", "Q8_0"):
        types = {name: kind for name, tensor in tensors(stored).items() if tensor.data.ndim == 2}
        gguf.quantise(find_llama_cpp(), stored, tmp_path / "file.gguf", "q4_0", check=nothing, types=types)
        kept[kind] = share_kept(changes, tmp_path / "file.gguf")
    assert kept["Q4_1"] is not None
    assert kept["Q4_1"] < 0.6
    assert kept["Q8_0"] == pytest.approx(1, abs=0.03)
    assert f"holds {kept['Q4_1']:.0%}" in (note_on("q4_0", kept["Q4_1"]) or "")
    assert note_on("q8_0", kept["Q8_0"]) is None


def test_a_share_that_rounding_hides_is_not_told(f16: Path, changes: list[Changed], tmp_path: Path) -> None:
    faint = [Changed(one.name, one.base, one.change * 1e-3) for one in changes]
    stored = written(f16, faint, tmp_path / "merged.gguf", 1.0)
    gguf.quantise(find_llama_cpp(), stored, tmp_path / "file.gguf", "q4_0", check=nothing)
    assert share_kept(faint, tmp_path / "file.gguf") is None
    assert share_kept([], tmp_path / "file.gguf") is None
    assert note_on("q4_0", None) is None


def test_an_export_says_of_each_file_how_much_of_the_adapter_it_holds(tiny: Tiny) -> None:
    record = tiny.model()
    question, answer = "Who?", "It is so. " * 5
    asked = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    result = export_model(
        tiny.workspace, record.model_id, quantizations=["f16", "q8_0"], held_out=HeldOut([asked], "eval")
    )
    sixteen, eight = result.files
    assert sixteen.adapter_kept is None
    assert eight.adapter_kept == pytest.approx(1, abs=0.03)
    assert "holds 100% of what it changed" in (tiny.folder(record) / "README.md").read_text()
    merged = tiny.folder(record) / "merged"
    found = sample_changes(tiny.base, merged, Path(sixteen.path))
    assert {one.name.split(".")[-2] for one in found} == {"attn_v", "attn_output"}
