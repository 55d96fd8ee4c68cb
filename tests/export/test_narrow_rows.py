from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from tests.export.gguf_tensors import tensors
from tunesmith.errors import CheckFailed
from tunesmith.export import gguf
from tunesmith.export.making import FileMaker
from tunesmith.export.narrow_rows import better_types
from tunesmith.machine.llama_cpp import find_llama_cpp
from tunesmith.machine.records import LlamaCpp


def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def coarse_base(f16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, its weights as if it had been published as Q4_1."""
    path = tmp_path_factory.mktemp("narrow") / "f16.gguf"
    shutil.copy(f16, path)
    for tensor in tensors(path, "r+").values():
        if tensor.kind == GGMLQuantizationType.F16:
            coded = quants.quantize(tensor.values, GGMLQuantizationType.Q4_1)
            tensor.data[:] = quants.dequantize(coded, GGMLQuantizationType.Q4_1).astype(np.float16)
    return path


def maker(scratch: Path, tools: LlamaCpp, notes: list[str]) -> FileMaker:
    idle = gguf.Converter(tools.model_copy(update={"converter": None}))
    return FileMaker(tools, idle, scratch, None, "merged", "notes", None, (), scratch, print, nothing, notes)


def types(path: Path) -> dict[str, str]:
    return {name: tensor.kind.name for name, tensor in tensors(path).items() if tensor.data.ndim > 1}


def error(path: Path, source: Path) -> float:
    weights = tensors(source)
    found = [tensor.values - weights[name].values for name, tensor in tensors(path).items()]
    return float(np.square(np.concatenate([part.ravel() for part in found])).mean())


def test_weights_of_a_base_published_in_four_bits_are_stored_nearer_and_in_less_room(
    coarse_base: Path, tmp_path: Path
) -> None:
    gguf.quantise(find_llama_cpp(), coarse_base, tmp_path / "plain.gguf", "q5_k_m", check=nothing)
    assert "Q5_1" in types(tmp_path / "plain.gguf").values()
    notes: list[str] = []
    made = maker(tmp_path, find_llama_cpp(), notes).quantise(coarse_base, tmp_path / "made.gguf", "q5_k_m")
    kinds = types(made.path)
    assert "Q5_1" not in kinds.values()
    assert kinds["blk.0.ffn_up.weight"] == "Q5_0"
    assert {kinds[f"blk.{block}.attn_v.weight"] for block in (0, 1)} == {"Q8_0"}
    assert error(made.path, coarse_base) < error(tmp_path / "plain.gguf", coarse_base)
    assert made.path.stat().st_size < (tmp_path / "plain.gguf").stat().st_size
    assert notes == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("nearer")] == []


def test_other_weights_stay_as_llama_cpp_stores_them(f16: Path, tmp_path: Path) -> None:
    gguf.quantise(find_llama_cpp(), f16, tmp_path / "plain.gguf", "q5_k_m", check=nothing)
    assert better_types(f16, tmp_path / "plain.gguf") == {}
    gguf.quantise(find_llama_cpp(), f16, tmp_path / "q4.gguf", "q4_k_m", check=nothing)
    assert better_types(f16, tmp_path / "q4.gguf") == {}, "nothing was stored as Q5_1"


def test_a_quantiser_that_cannot_be_told_types_leaves_its_own_file(coarse_base: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.gguf"
    gguf.quantise(find_llama_cpp(), coarse_base, plain, "q5_k_m", check=nothing)
    own = tmp_path / "llama-quantize"
    own.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"if '--tensor-type' in sys.argv: sys.exit('unknown option --tensor-type')\n"
        f"shutil.copy({str(plain)!r}, sys.argv[2])\n"
    )
    own.chmod(0o755)
    notes: list[str] = []
    tools = find_llama_cpp().model_copy(update={"quantizer": str(own)})
    made = maker(tmp_path, tools, notes).quantise(coarse_base, tmp_path / "made.gguf", "q5_k_m")
    assert made.path.read_bytes() == plain.read_bytes()
    assert len(notes) == 1
    assert "left as llama.cpp makes it" in notes[0]
    with pytest.raises(CheckFailed, match="unknown option"):
        gguf.quantise(
            tools, coarse_base, tmp_path / "x", "q5_k_m", check=nothing, types={"blk.0.attn_v.weight": "Q8_0"}
        )
