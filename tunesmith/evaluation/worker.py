"""The evaluation worker: `python -m tunesmith.evaluation.worker RUN_DIR`.

Arguments of a `compare` run: {models: [{label, model}], questions | dataset_id,
repetitions, temperature, max_tokens, seed, max_questions, ollama_host}; those that
are left out have the defaults of `CompareRequest`. Keys are read from the
environment, never from the arguments, which are kept on disk.
"""

from __future__ import annotations

from typing import Any

from tunesmith.evaluation.comparing import Comparing
from tunesmith.work import Work, run_worker


def compare(work: Work) -> dict[str, Any]:
    """The handler of kind `compare`: the fields of `Comparison`."""
    return Comparing(work).run().model_dump(mode="json", by_alias=True)


if __name__ == "__main__":
    run_worker({"compare": compare})
