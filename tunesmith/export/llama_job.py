"""Jobs for llama.cpp's library (cyllama), each in a process of its own.

    python -m tunesmith.export.llama_job JOB.json

A failed assertion in C++ ends the process; here it ends only the child. A job is
a JSON object with `job` (quantise, tokenise, measure, answer) and its arguments; the
answer is written to the file named by `answer`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import MissingExtra
from tunesmith.export.child import run_child
from tunesmith.export.importance import read_matrix
from tunesmith.export.quantizer_parameters import hand_over
from tunesmith.files import write_atomic

if TYPE_CHECKING:
    from tunesmith.export.quality import TokenRow

# Rows of about a hundred tokens are read a fifth faster side by side.
BATCH_TOKENS, BATCH_ROWS = 512, 32
MODULE = "tunesmith.export.llama_job"


def run_job(job: str, arguments: dict[str, Any], *, check: Callable[[], None]) -> dict[str, Any]:
    """Have a child do one job and return its answer.

    Raises:
        MissingExtra: cyllama is not installed.
        ChildFailed: the child ended with an error.
    """
    from importlib.util import find_spec

    if find_spec("cyllama") is None:
        raise MissingExtra("cyllama", extra="embedded", purpose="quantise and check GGUF files")
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        order, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        order.write_text(json.dumps({**arguments, "job": job, "answer": str(answer)}), encoding="utf-8")
        run_child([sys.executable, "-P", "-m", MODULE, order], check=check, environment=_environment())
        return json.loads(answer.read_text(encoding="utf-8"))


def _environment() -> dict[str, str]:
    """The child finds this package where this process found it, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # A backtrace of a failed assertion would bury the assertion itself.
    return {"PYTHONPATH": path, "GGML_NO_BACKTRACE": "1"}


def quantise(order: dict[str, Any]) -> dict[str, Any]:
    """Write `output`, the 16-bit GGUF `input` in the precision `ftype`.

    Guided by the importance matrix in the file `matrix`, with `types` for single tensors.
    """
    from cyllama.llama import llama_cpp

    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype = order["ftype"]
    parameters.nthread = order["threads"]
    matrix = read_matrix(Path(order["matrix"])) if order["matrix"] else {}
    kept = hand_over(parameters, matrix, order["types"]) if matrix or order["types"] else None
    llama_cpp.model_quantize(order["input"], order["output"], parameters)
    del kept  # until here the quantiser read it
    return {"bytes": Path(order["output"]).stat().st_size}


def tokenise(order: dict[str, Any]) -> dict[str, Any]:
    """Token ids of `texts` by the tokenizer inside the GGUF `model`, and which of `ends` end an answer."""
    model = _open(order["model"], vocabulary_only=True)
    vocabulary = model.get_vocab()
    return {
        "ids": [vocabulary.tokenize(text, False, True) if text else [] for text in order["texts"]],
        "ends": {token: _ends(vocabulary, token) for token in order["ends"]},
    }


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """The divergence of the GGUF `model` from the distributions recorded in the folder `reference`.

    With `part`, see `compare_in_part`: also its mean over the first rows, and with `only` nothing else.
    """
    from tunesmith.export.quality import Reference, compare_in_part

    reference = Reference.load(Path(order["reference"]))
    evaluate = _evaluator(order["model"], reference.rows, order["threads"], order["gpu"])
    part = order.get("part")
    found, first = compare_in_part(reference, evaluate, part or 1, only=order.get("only", False))
    return {**found.model_dump(), "first": first} if part else found.model_dump()


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Greedy answers of the GGUF `model` to `prompts`: see `answer_greedily`."""
    from tunesmith.export.llama_answers import Pace, answer_greedily

    pace = Pace(order["slots"], order["cut_loops"], order["beginning_s"], order["ending_s"])
    model = _open(order["model"])
    return {"answers": answer_greedily(model, order["prompts"], order["limit"], pace, order["threads"])}


def _ends(vocabulary: Any, token: str) -> bool:
    ids = vocabulary.tokenize(token, False, True)
    return len(ids) == 1 and vocabulary.is_eog(ids[0])


def _open(path: str, *, vocabulary_only: bool = False, gpu: bool = False) -> Any:
    from cyllama.llama import llama_cpp

    class Model(llama_cpp.LlamaModel):
        # LlamaContext.get_logits_ith asks the model for this attribute, which the binding's own class lacks.
        @property
        def n_vocab(self) -> int:
            return self.get_vocab().n_vocab

    parameters = llama_cpp.LlamaModelParams()
    parameters.n_gpu_layers = 999 if gpu else 0
    if vocabulary_only:
        # The library's own vocab_only ends the process in this binding, whose constructor asks for the layers.
        parameters.no_alloc = True
        parameters.use_mmap = False
    return Model(path, parameters)


def _evaluator(
    path: str, rows: Sequence[TokenRow], threads: int, gpu: bool
) -> Callable[[list[int], list[int]], Iterator[Any]]:
    """A function (token ids, positions) → iterator over logits, one float32 array (vocabulary,) a position.

    Args:
        rows: what it will be asked for, in that order: several short ones are read in one pass.
    """
    from cyllama.llama import llama_cpp

    batches = list(_batches(rows))
    model = _open(path, gpu=gpu)
    parameters = llama_cpp.LlamaContextParams()
    widest = max(sum(len(row.ids) for row in batch) for batch in batches)
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = -(-widest // 256) * 256
    parameters.n_seq_max = max(map(len, batches))
    parameters.kv_unified = True
    parameters.n_threads = parameters.n_threads_batch = threads
    context = llama_cpp.LlamaContext(model, parameters)
    tokens = llama_cpp.LlamaBatch(n_tokens=parameters.n_batch, embd=0, n_seq_max=1)
    logits = (found for batch in batches for found in _read(context, tokens, batch))

    def evaluate(_ids: list[int], positions: list[int]) -> Iterator[Any]:
        return itertools.islice(logits, len(positions))

    return evaluate


def _batches(rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
    batch: list[TokenRow] = []
    for row in rows:
        if batch and (sum(len(other.ids) for other in batch) + len(row.ids) > BATCH_TOKENS or len(batch) == BATCH_ROWS):
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _read(context: Any, tokens: Any, rows: Sequence[TokenRow]) -> Iterator[Any]:
    """Logits at the asked positions of rows that are read side by side."""
    from array import array

    import numpy as np

    context.kv_cache_clear()
    tokens.clear()
    asked: list[int] = []
    for sequence, row in enumerate(rows):
        wanted = set(row.positions)
        asked += [tokens.n_tokens + position for position in row.positions]
        for position, token in enumerate(row.ids):
            tokens.add(token, position, [sequence], position in wanted)
    context.decode(tokens)
    for place in asked:
        yield np.frombuffer(array("f", context.get_logits_ith(place)), dtype=np.float32)


JOBS = {"quantise": quantise, "tokenise": tokenise, "measure": measure, "answer": answer}


def main(path: Path) -> None:
    """Do the job written in the file `path`."""
    order = json.loads(path.read_text(encoding="utf-8"))
    write_atomic(Path(order["answer"]), json.dumps(JOBS[order["job"]](order)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
