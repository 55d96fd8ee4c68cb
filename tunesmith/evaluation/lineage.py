"""What a comparison was made from: files, datasets, versions, with their digests."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tunesmith import __version__
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.records import Lineage
from tunesmith.evaluation.training_data import TrainingData

PACKAGES = ("openai", "sacrebleu", "xllamacpp", "tokenizers", "torch", "transformers", "peft")


def lineage(
    contestants: Sequence[Contestant], training: TrainingData, dataset_id: str | None, *, measured: bool
) -> Lineage:
    """Models, datasets and versions behind a comparison.

    Args:
        dataset_id: the dataset the questions come from; None when they were given.
        measured: whether a held-out loss was.
    """
    return Lineage(
        dataset_id=dataset_id,
        heldout_dataset_id=training.heldout_dataset() if measured else None,
        versions=_versions(),
        models=[_model_lineage(one) for one in contestants if one.record],
        datasets=training.lineage(),
    )


def _model_lineage(one: Contestant) -> dict[str, Any]:
    assert one.record is not None
    folder = one.workspace.models / one.record.model_id
    served = one.gguf or one.adapter or one.weights
    file = next((file for file in one.record.files if served and folder / file.path == served), None)
    return {
        "label": one.label,
        "model_id": one.record.model_id,
        "run_id": one.record.run_id,
        "dataset_id": one.record.dataset_id,
        "base_model": one.record.base_model,
        "method": one.record.method,
        "file": file.path if file else None,
        "sha256": file.sha256 if file else None,
        "prompt_format_sha256": one.prompt_format.sha256 if one.prompt_format else None,
    }


def _versions() -> dict[str, str]:
    found = {"tunesmith": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
