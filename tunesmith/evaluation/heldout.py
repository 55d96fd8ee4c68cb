"""Held-out loss: how well a model predicts the answers of rows nobody trained on.

Over answer tokens only (with the token that ends an answer), every token weighing
the same, the rows rendered by the prompt format the model was trained with. A base
is measured with the format of the model trained on it, so that both read the same.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tunesmith.data.records import Row
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.records import HeldOut
from tunesmith.evaluation.torch_model import IGNORED, TorchModel
from tunesmith.models.prompt_format import PromptFormat

# More rows cost more than they tell: on two cores 64 rows of 100 tokens take about 10 s a model.
MAX_ROWS = 64
MAX_TOKENS = 2048


@dataclass(frozen=True)
class HeldOutLoss:
    """A model's loss on the held-out rows."""

    loss: float
    origin: HeldOut


def spread_rows(rows: Sequence[Row]) -> list[Row]:
    """At most 64 rows: every n-th rather than the first ones, as rows of one note lie together."""
    return list(rows[:: max(1, math.ceil(len(rows) / MAX_ROWS))])


def taken_from_runs(
    contestants: Sequence[Contestant], rows: Sequence[Row], dataset_id: str
) -> dict[str, HeldOutLoss] | None:
    """Losses by label that the training runs measured, if they are of exactly these rows for every local model.

    Args:
        rows: all rows of the dataset's eval split.

    Returns:
        None where one of the models was not measured on them; then all are to be measured alike.
    """
    found: dict[str, HeldOutLoss] = {}
    measured: set[int] = set()
    for one in contestants:
        if not one.has_weights:
            continue
        source = one if one.record else _trained_on(one, contestants)
        if source is None or source.record is None or source.prompt_format is None:
            return None
        training = source.record.training
        count = training.get("eval_rows_measured")
        whole = (training.get("rows") or {}).get("cut") == 0 and (training.get("rows") or {}).get("eval") == len(rows)
        if source.record.dataset_id != dataset_id or not whole or count not in (len(rows), len(spread_rows(rows))):
            return None
        loss = (training.get("eval_loss") or {}).get("after" if one.record else "before")
        if training.get("objective") == "dpo":
            return None  # its loss is that of pairs
        if not isinstance(loss, int | float):
            return None
        measured.add(count)
        found[one.label] = HeldOutLoss(
            float(loss), _origin("training_run", count, None, float(loss), source.prompt_format)
        )
    return found if len(measured) == 1 else None


def measure(
    contestants: Sequence[Contestant],
    rows: Sequence[Row],
    *,
    load: Callable[[Path], TorchModel],
    on_model: Callable[[str], None],
) -> tuple[dict[str, HeldOutLoss], list[str]]:
    """Measure every model with weights here, and say which could not be.

    Args:
        rows: the rows to measure on.
        load: gives the model in a folder, loaded once.
        on_model: called with each label before it is measured.

    Returns:
        Losses by label, and notes for the reader.
    """
    found: dict[str, HeldOutLoss] = {}
    notes: list[str] = []
    here = [one for one in contestants if one.has_weights]
    missing = [package for package in ("torch", "transformers", "peft") if find_spec(package) is None]
    if here and missing:
        return {}, [
            f"Held-out losses were not measured: {missing[0]} is not installed (pip install 'tunesmith[train]')."
        ]
    folders: dict[Path, list[Contestant]] = {}
    for one in here:
        folders.setdefault(one.weights_folder(), []).append(one)
    for folder, group in folders.items():
        model = load(folder)
        for one in group:
            on_model(one.label)
            source = one if one.record else _trained_on(one, contestants) or one
            prompt_format = source.prompt_format
            assert prompt_format is not None
            limit = min(model.context, _trained_length(source))
            encoded = [tokenise(one, prompt_format, row) for row in rows]
            usable = [(ids[:limit], labels[:limit]) for ids, labels in encoded]
            parts = [part for part in model.losses(usable, one.adapter) if part[1]]
            tokens = sum(count for _, count in parts)
            if not tokens:
                notes.append(f"{one.label}: no held-out answer fits into {limit} tokens, so there is no held-out loss.")
                continue
            loss = sum(total for total, _ in parts) / tokens
            found[one.label] = HeldOutLoss(loss, _origin("measured", len(parts), tokens, loss, prompt_format))
        del model
        gc.collect()
    return found, notes


def tokenise(one: Contestant, prompt_format: PromptFormat, row: Row) -> tuple[list[int], list[int]]:
    """Token ids and labels of a row. Segment by segment, as in training: no token straddles prompt and answer."""
    ids: list[int] = []
    labels: list[int] = []
    for segment in prompt_format.segments(row.messages):
        encoded = one.tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += encoded
        labels += encoded if segment.trained else [IGNORED] * len(encoded)
    return ids, labels


def _trained_on(base: Contestant, contestants: Sequence[Contestant]) -> Contestant | None:
    """The first compared model that was trained on this base."""
    return next((one for one in contestants if one.record and one.record.base_model == base.base_model), None)


def _trained_length(one: Contestant) -> int:
    length = one.record.recipe.get("max_length") if one.record else None
    return length if isinstance(length, int) and length > 0 else MAX_TOKENS


def _origin(source: str, rows: int, tokens: int | None, loss: float, prompt_format: PromptFormat) -> HeldOut:
    return HeldOut.model_validate(
        {
            "source": source,
            "rows": rows,
            "tokens": tokens,
            "perplexity": round(math.exp(min(loss, 80.0)), 4),
            "prompt_format_sha256": prompt_format.sha256,
        }
    )
