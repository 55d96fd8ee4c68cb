"""How much of what an adapter changed each quantised file holds, with and without an importance matrix.

    python benchmarks/export/kept.py WORKSPACE MODEL [--quantizations q8_0,q6_k,q5_k_m,q4_k_m,q4_0,iq4_xs]

MODEL was exported before: its merged weights are read. Unlike the export, this takes every matrix of the layers,
whole, and the base from a GGUF of its own. Of each file: `kept` (see tunesmith/export/adapter_kept.py), `error`, the
squared rounding error over the squared weights, and `mean_kld` from the merged weights. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tokenizers

from tunesmith.export import gguf
from tunesmith.export.held_out import token_rows
from tunesmith.export.importance import ENOUGH_TOKENS, collect
from tunesmith.export.llama_job import run_job
from tunesmith.export.merge import record_whole
from tunesmith.export.narrow_rows import better_types
from tunesmith.export.worker import held_out
from tunesmith.machine.llama_cpp import find_llama_cpp
from tunesmith.models.bases import base_folder
from tunesmith.models.gguf_file import read_gguf, read_rows
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace


def nothing() -> None:
    pass


def matrices(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The layers' matrices, decoded, by their names: files differ in their order."""
    for place in sorted(read_gguf(path).tensors, key=lambda tensor: tensor.name):
        if place.name.startswith("blk.") and len(place.shape) == 2:
            yield place.name, read_rows(path, place)


def held(file: Path, merged: Path, base: Path) -> dict[str, float]:
    """`kept` and `error` of a file."""
    along = size = error = whole = 0.0
    for (_, got), (_, wanted), (_, before) in zip(matrices(file), matrices(merged), matrices(base), strict=True):
        change = (wanted - before).astype(np.float64)
        along += float(((got - before) * change).sum())
        size += float((change * change).sum())
        error += float(np.square(got - wanted, dtype=np.float64).sum())
        whole += float(np.square(wanted, dtype=np.float64).sum())
    return {"kept": round(along / size, 3), "error": float(f"{error / whole:.3g}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("model")
    parser.add_argument("--quantizations", default="q8_0,q6_k,q5_k_m,q4_k_m,q4_0,iq4_xs")
    options = parser.parse_args()
    workspace = Workspace(options.workspace.resolve(), [])
    store = ModelStore(workspace)
    record = store.get(options.model)
    weights = store.folder(record.model_id) / "merged"
    texts = held_out(SimpleNamespace(workspace=workspace), record)
    tokenizer = tokenizers.Tokenizer.from_file(str(weights / "tokenizer.json"))
    prompt_format, tools = PromptFormat.from_record(record.prompt_format), find_llama_cpp()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        merged, base, matrix, file = (scratch / f"{name}.gguf" for name in ("merged", "base", "matrix", "file"))
        gguf.convert(tools, weights, merged, "f16", name="merged", check=nothing)
        gguf.convert(tools, base_folder(workspace, record.base_model), base, "f16", name="base", check=nothing)
        size = ENOUGH_TOKENS
        rows = token_rows(texts.training, prompt_format, tokenizer, max_tokens=size, max_positions=size)
        if collect(weights, merged, rows, matrix, check=nothing) is None:
            raise SystemExit("there is no importance matrix of so few rows")
        reference = record_whole(weights, token_rows(texts.conversations, prompt_format, tokenizer), scratch, nothing)
        assert reference is not None
        order = {"model": str(file), "reference": str(reference.folder), "threads": gguf.threads(), "gpu": False}
        for quantization in options.quantizations.split(","):
            ways: list[tuple[str, dict[str, Any]]] = [("plain", {}), ("matrix", {"matrix": matrix})]
            for way, how in ways:
                file.unlink(missing_ok=True)
                gguf.quantise(tools, merged, file, quantization, check=nothing, **how)
                if way == "plain" and (types := better_types(merged, file)):
                    ways.append(("nearer types", {"types": types}))
                kld = run_job("measure", order, check=nothing)["mean_kld"]
                found.append({"quantization": quantization, "way": way, **held(file, merged, base), "mean_kld": kld})
                print(found[-1], flush=True)
    print(json.dumps({"model": options.model, "files": found}))


if __name__ == "__main__":
    main()
