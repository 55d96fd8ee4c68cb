"""Direct preference optimisation in the trainer that every run has: the same order, checkpoints, looks and recoveries.

TRL's own DPOTrainer would tokenise anew by its template, copy the adapter to have a reference, hold the scores of the
whole vocabulary for both answers, and wait for the card several times in each pass. Its loss is one line, which a test
compares with it; its scores without holding the vocabulary are taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl.trainer.utils import _ChunkedLogProbFunction  # pyright: ignore[reportPrivateUsage]

from tunesmith.training.engines.sft import Trainer, pad
from tunesmith.training.examples import IGNORED, Example
from tunesmith.training.objectives import BETA

VOCABULARY_CHUNK = 8192  # as TRL's own trainer has it; see memory.PAIR_LOGITS


class PreferenceTrainer(Trainer):
    """The loss of a pair is −log σ(β · ((chosen − its reference) − (rejected − its reference))),
    in log-probabilities of whole answers. The reference scores of a row are computed when it first comes, and kept.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data_collator = self._collated
        self.args.remove_unused_columns = False
        self.model_accepts_loss_kwargs = True  # the loss is divided by the pairs of the whole step
        self._reference: dict[str, tuple[float, float]] = {}
        self._seen = {False: _Rewards(), True: _Rewards()}  # by whether they were held out

    @staticmethod
    def columns(train: Sequence[Example]) -> dict[str, list[Any]]:
        """The rows as a table: both answers' tokens and labels."""
        assert all(example.rejected is not None for example in train)
        return {
            "row_id": [example.row_id for example in train],
            "input_ids": [example.input_ids for example in train],
            "labels": [example.labels for example in train],
            "rejected_ids": [example.rejected.input_ids for example in train if example.rejected],
            "rejected_labels": [example.rejected.labels for example in train if example.rejected],
        }

    def weight_of(self, example: Example) -> int:
        """Each pair counts alike in the held-out loss."""
        return 1

    def measured_besides(self, *, held_out: bool) -> dict[str, float]:
        """Share of pairs whose chosen answer gained more than the rejected one, and by how much, times beta."""
        return self._seen[held_out].take()

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of a micro-batch, divided by the pairs of the whole step."""
        self._real_tokens = self._real_tokens + inputs["attention_mask"].sum()
        losses = self._losses(inputs, held_out=False)
        items = kwargs.get("num_items_in_batch")
        return losses.sum() / (items if items is not None else len(losses))

    def held_out_pass(self, rows: Sequence[Example]) -> torch.Tensor:
        """The summed loss of some held-out pairs in one pass; a scalar in 64 bits."""
        inputs = self._prepare_inputs(self._collated([dict(zip(_COLUMNS, _cells(row), strict=True)) for row in rows]))
        with torch.no_grad():
            return self._losses(inputs, held_out=True).double().sum()

    def heldout_loss(self) -> float:
        """As ever; what an earlier look showed besides is forgotten."""
        self._seen[True].take()
        return super().heldout_loss()

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        """Pairs of a step."""
        return sum(len(batch["row_id"]) for batch in batch_samples)

    def _collated(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """All chosen answers with their prompts, then all rejected ones: [2 × rows, tokens]."""
        chosen = [Example(row["row_id"], row["input_ids"], row["labels"], 0) for row in rows]
        rejected = [Example(row["row_id"], row["rejected_ids"], row["rejected_labels"], 0) for row in rows]
        filler: Any = self._tokenizer.pad_token_id
        return {**pad([*chosen, *rejected], filler, "cpu"), "row_id": [row["row_id"] for row in rows]}

    def _losses(self, inputs: dict[str, Any], *, held_out: bool) -> torch.Tensor:
        """One loss for each pair."""
        reference = self._reference_of(inputs)
        gained = self._log_probabilities(inputs) - reference
        chosen, rejected = gained.chunk(2)
        margins = BETA * (chosen - rejected)
        self._seen[held_out].add(margins.detach())
        return -logsigmoid(margins)

    def _reference_of(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities of the same answers by the base, [2 × rows]."""
        rows = inputs["row_id"]
        model: Any = self.model
        if not all(row in self._reference for row in rows):
            with torch.no_grad(), model.disable_adapter():
                found = self._log_probabilities(inputs).chunk(2)
            self._reference.update(zip(rows, zip(*(half.tolist() for half in found), strict=True), strict=True))
        known = [self._reference[row] for row in rows]
        return torch.tensor(list(zip(*known, strict=True)), device=inputs["input_ids"].device).flatten()

    def _log_probabilities(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Of each sequence's answer, summed over its tokens; 32 bits."""
        model: Any = self.model
        causal = model.get_base_model()
        labels = inputs["labels"][:, 1:]
        answered = labels != IGNORED
        config, head = causal.config.get_text_config(), causal.get_output_embeddings()
        with self._number_format():
            hidden = causal.base_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).last_hidden_state
            scores: Any = _ChunkedLogProbFunction.apply(
                hidden[:, :-1][answered],
                head.weight,
                head.bias,
                labels[answered],
                1.0,  # temperature
                VOCABULARY_CHUNK,
                getattr(config, "final_logit_softcapping", None),
                getattr(config, "logit_scale", None) or 1.0,
            )
        each = scores[0]
        return each.new_zeros(answered.shape).masked_scatter(answered, each).sum(dim=1)


class _Rewards:
    """Margins summed on the device until somebody asks: each question waits for it."""

    def __init__(self) -> None:
        self.sums: Any = 0
        self.count = 0

    def add(self, margins: torch.Tensor) -> None:
        right = (margins > 0).sum() + (margins == 0).sum() / 2  # where nothing was learned yet, half are by chance
        self.sums = self.sums + torch.stack([margins.sum(), right])
        self.count += len(margins)

    def take(self) -> dict[str, float]:
        if not self.count:
            return {}
        margin, right = (self.sums / self.count).tolist()
        self.sums, self.count = 0, 0
        return {"reward_accuracy": round(right, 4), "reward_margin": round(margin, 6)}


_COLUMNS = ("row_id", "input_ids", "labels", "rejected_ids", "rejected_labels")


def _cells(row: Example) -> tuple[Any, ...]:
    assert row.rejected is not None
    return row.row_id, row.input_ids, row.labels, row.rejected.input_ids, row.rejected.labels
