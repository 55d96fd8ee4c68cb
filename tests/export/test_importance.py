from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from tests.export.conftest import QUESTIONS, Tiny
from tunesmith.errors import CheckFailed
from tunesmith.export import gguf, quantizer_parameters
from tunesmith.export.held_out import token_rows
from tunesmith.export.importance import Importance, collect, read_matrix
from tunesmith.machine.llama_cpp import find_llama_cpp

ROWS = [
    [{"role": "user", "content": f"{question} ({number})"}, {"role": "assistant", "content": answer}]
    for number in range(5)
    for question, answer in QUESTIONS
]


def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def made(f16: Path, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Importance]:
    """The tiny base as f16, and its matrix."""
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny.base / "tokenizer.json"))
    rows = token_rows(ROWS, tiny.prompt_format, tokenizer, max_tokens=700)
    found = collect(tiny.base, f16, rows, tmp_path_factory.mktemp("importance") / "matrix.gguf", check=nothing)
    assert found is not None
    assert found.tokens == sum(len(row.ids) for row in rows)
    return f16, found


def test_the_matrix_holds_the_mean_square_of_each_layers_inputs(made: tuple[Path, Importance], tiny: Tiny) -> None:
    from safetensors.numpy import load_file

    matrix = read_matrix(made[1].file)
    layers = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert set(matrix) == {f"blk.{block}.{layer}.weight" for block in (0, 1) for layer in layers}
    assert matrix["blk.1.ffn_down.weight"].shape == (128,)
    # The first layer reads normalised embeddings: they can be had by hand.
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny.base / "tokenizer.json"))
    ids = [token for row in token_rows(ROWS, tiny.prompt_format, tokenizer, max_tokens=700) for token in row.ids]
    vectors = load_file(tiny.base / "model.safetensors")["model.embed_tokens.weight"][ids].astype(np.float64)
    normalised = vectors / np.sqrt((vectors**2).mean(axis=1, keepdims=True) + 1e-6)
    assert matrix["blk.0.attn_q.weight"] == pytest.approx((normalised**2).mean(axis=0), rel=1e-3)


def test_the_packaged_quantiser_takes_the_matrix(made: tuple[Path, Importance], tmp_path: Path) -> None:
    source, found = made
    for name, matrix in (("plain", None), ("guided", found.file)):
        gguf.quantise(find_llama_cpp(), source, tmp_path / name, "q4_0", check=nothing, matrix=matrix)
    plain, guided = (hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("plain", "guided"))
    assert plain != guided


def test_a_binding_that_holds_something_else_is_not_written_into() -> None:
    class Other:
        __slots__ = ("nthread",)

        def __init__(self) -> None:
            self.nthread = 1

    with pytest.raises(LookupError):
        quantizer_parameters.hand_over(Other(), {"blk.0.attn_q.weight": np.ones(4, np.float32)}, {})


def test_the_users_own_quantiser_is_given_the_file(made: tuple[Path, Importance], tmp_path: Path) -> None:
    own = tmp_path / "llama-quantize"
    own.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nassert sys.argv[1] == '--imatrix', sys.argv\n"
        f"assert sys.argv[2] == {str(made[1].file)!r}\nshutil.copy(*sys.argv[3:5])\n"
    )
    own.chmod(0o755)
    tools = find_llama_cpp().model_copy(update={"quantizer": str(own)})
    gguf.quantise(tools, made[0], tmp_path / "q.gguf", "q4_0", check=nothing, matrix=made[1].file)
    assert (tmp_path / "q.gguf").is_file()
    with pytest.raises(CheckFailed):
        gguf.quantise(tools, made[0], tmp_path / "q.gguf", "q4_0", check=nothing)
