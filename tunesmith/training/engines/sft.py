"""TRL's SFTTrainer, told to train on exactly the tokens and labels it is given.

Imported after the engine was loaded: Unsloth must have patched TRL by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from accelerate import AutocastKwargs
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig

from tunesmith import checkpoints
from tunesmith.training.batching import epoch_order
from tunesmith.training.engines import attention, head_loss, trained_head
from tunesmith.training.engines.joined import REAL, Joining, packed_rows
from tunesmith.training.engines.loaded import Loaded
from tunesmith.training.engines.parts import free_memory, parts_of
from tunesmith.training.engines.saving import SavingTrainer
from tunesmith.training.examples import IGNORED, Example
from tunesmith.training.kernels import ROW_ENDS, worth_compiling
from tunesmith.training.passes import Passes
from tunesmith.training.recipe import Recipe
from tunesmith.training.recovery import ran_out_of_memory

if TYPE_CHECKING:
    from tunesmith.training.engines.group import Group


class StepOrder(Sampler[int]):
    """Rows in the order of `batching.epoch_order`: what the plan counted, whatever the micro-batch."""

    def __init__(self, lengths: Sequence[int], effective_batch: int, seed: int) -> None:
        self.lengths = lengths
        self.effective_batch = effective_batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.lengths, self.effective_batch, seed=self.seed, epoch=self.epoch))


class Trainer(SavingTrainer):
    """SFTTrainer with our row order and a held-out loss that weighs every token alike.

    Attributes:
        recipe: the resolved recipe.
        held_out: the held-out rows that are measured.
        passes: how much goes through the model at a time, where that is less than the recipe says.
        joins: packed rows are told apart by their boundaries, see `joined.py`.
        on_less: told of the step, the change and the error when an evaluation went on with less.
        real_tokens: tokens trained on since the last `take_real_tokens`, without padding.
        looking: held-out (rows done, rows, tokens done, tokens) of the look that goes on.
    """

    def __init__(
        self,
        *args: Any,
        recipe: Recipe,
        lengths: Sequence[int],
        held_out: Sequence[Example],
        passes: Passes,
        on_less: Callable[[int, str, str], None],
        joins: bool = False,
        **kwargs: Any,
    ) -> None:
        self.recipe = recipe
        self.joins = joins
        self.held_out = held_out
        self.passes = passes
        self.on_less = on_less
        self.looking = 0, 0, 0, 0
        self._lengths = lengths
        self._real_tokens: Any = 0
        super().__init__(*args, **kwargs)
        self._own_loss: Any = None
        if recipe.engine == "transformers":
            ways = (head_loss, trained_head)
            self._own_loss = next((way.loss_of for way in ways if way.can_take(self.model)), None)

    def take_real_tokens(self) -> int:
        """Real tokens trained on since the last call. Waits for the device."""
        count, self._real_tokens = int(self._real_tokens), 0
        return count

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.recipe.packing and not self.joins:
            return super()._get_train_sampler(train_dataset)
        return StepOrder(self._lengths, self.recipe.effective_batch, self.recipe.seed)

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        logged = self.control.should_log
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)
        if logged:
            tr_loss.zero_()  # the library subtracts it from itself, and one NaN would stay in every later line

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.model is not None and self.model.training:
            self._real_tokens = self._real_tokens + _real_tokens(inputs)
            if self._own_loss is not None and model is self.model and not args and not kwargs.get("return_outputs"):
                # The library's forward pass, which this goes around, is where a card's number format is set.
                with self._number_format():
                    return self._own_loss(model, inputs, kwargs.get("num_items_in_batch"))
            if not self.args.use_cpu and not getattr(self, "aux_loss_enabled", False):
                # TRL's own also takes accuracy and entropy of each micro-batch off the card, and waits for it each
                # time. Looked up when called: Unsloth replaces it.
                inputs["use_cache"] = False
                return transformers.Trainer.compute_loss(self, model, inputs, *args, **kwargs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """As the library does it, but a packed sequence in parts where memory once ran out."""
        limit = self.passes.packed_tokens
        parts = (
            parts_of(inputs, limit) if self.recipe.packing and limit and num_items_in_batch is not None else [inputs]
        )
        losses = [super(Trainer, self).training_step(model, part, num_items_in_batch) for part in parts]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Held-out loss in nats per trained token, over all held-out rows at once (not a mean of batch means)."""
        try:
            loss = self.heldout_loss()
        except Exception as error:
            step = self.state.global_step
            folder = checkpoints.folder_of(Path(str(self.args.output_dir)), step)
            if ran_out_of_memory(error) and step > 0 and not checkpoints.is_sealed(folder):
                self.save_now()  # what was trained up to here is not to be trained again
            raise
        metrics = {"eval_loss": loss}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def heldout_loss(self) -> float:
        """The loss on the held-out rows as the model is now. Where memory runs out, fewer rows are taken at a time.

        Raises:
            Exception: memory ran out with one row; or at once, where the recipe says not to recover.
        """
        model = self.model
        assert model is not None
        was_training = model.training
        model.eval()
        os.environ["UNSLOTH_RETURN_LOGITS"] = "0"  # whole logits of a batch would be gigabytes
        loss_sum = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
        # Longest first: what does not fit shows at once.
        ordered = sorted(self.held_out, key=lambda example: -len(example.input_ids))
        tokens = [len(example.input_ids) for example in ordered]
        start = 0
        try:
            while start < len(ordered):
                self.looking = start, len(ordered), sum(tokens[:start]), sum(tokens)
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
                rows = ordered[start : start + self._rows_at_a_time(ordered[start])]
                try:
                    loss_sum += self.held_out_pass(rows)
                except Exception as error:
                    recover = self.recipe.on_out_of_memory == "recover" and len(rows) > 1
                    if not recover or not ran_out_of_memory(error):
                        raise
                    failure = str(error)
                else:
                    start += len(rows)
                    continue
                free_memory()
                self.passes.evaluation_rows = len(rows) // 2
                self.on_less(self.state.global_step, f"evaluation rows {len(rows)} → {len(rows) // 2}", failure)
        finally:
            model.train(was_training)
        return float(loss_sum) / sum(self.weight_of(example) for example in ordered)

    def weight_of(self, example: Example) -> int:
        """What a row counts in the held-out loss: each trained token alike."""
        return example.trained_tokens

    def measured_besides(self, *, held_out: bool) -> dict[str, float]:
        """What the last look, or the steps since the last call, showed besides the loss; nothing here."""
        return {}

    @staticmethod
    def columns(train: Sequence[Example]) -> dict[str, list[Any]]:
        """The rows as a table."""
        return {
            "input_ids": [example.input_ids for example in train],
            "labels": [example.labels for example in train],
        }

    def held_out_pass(self, rows: Sequence[Example]) -> torch.Tensor:
        """The summed loss of some held-out rows in one pass; a scalar in 64 bits."""
        model = self.model
        assert model is not None
        if self.joins:
            return self._joined_pass(rows)
        filler: Any = self._tokenizer.pad_token_id
        # Not inference_mode: what the kernels keep from here on would be unusable for a backward pass.
        with torch.no_grad(), self._evaluating():
            loss = model(**pad(rows, filler, next(model.parameters()).device)).loss
        return loss.double() * sum(example.trained_tokens for example in rows)

    def _joined_pass(self, rows: Sequence[Example]) -> torch.Tensor:
        """`held_out_pass` of rows that are joined. All passes are alike in shape, so long as memory suffices."""
        assert self._own_loss is not None
        tokens = sum(len(row.input_ids) for row in rows)
        lengths = [len(row.input_ids) for row in self.held_out]
        room = tokens if self.passes.evaluation_rows else max(tokens, self._tokens_at_a_time())
        filler: Any = self._tokenizer.pad_token_id
        join = Joining(length=room, longest=max(lengths), rows=room // min(lengths), filler=filler)
        batch = join(
            [{"input_ids": row.input_ids, "labels": row.labels, "seq_lengths": [len(row.input_ids)]} for row in rows]
        )
        batch.pop(REAL)
        inputs = {
            name: value.to(self.args.device) if torch.is_tensor(value) else value for name, value in batch.items()
        }
        with torch.no_grad(), self._number_format():
            return self._own_loss(self.model, inputs, 1).double()

    def _tokens_at_a_time(self) -> int:
        """Of packed rows in one pass, padding included."""
        return self.passes.packed_tokens or self.recipe.batch_size * self.recipe.max_length

    def _rows_at_a_time(self, longest: Example) -> int:
        """As many held-out rows as train in one pass.

        With packing a pass trains `batch_size` full sequences, so as many rows as take their tokens, padding included.
        """
        rows = self.recipe.batch_size
        if self.recipe.packing:
            rows = max(rows, self._tokens_at_a_time() // len(longest.input_ids))
        return min(rows, self.passes.evaluation_rows or rows)

    def _number_format(self) -> AbstractContextManager[Any]:
        """The number format of the computation on a card. A CPU computes in that of the weights."""
        if self.args.use_cpu:
            return nullcontext()
        if self.recipe.adapter is not None:
            return self.accelerator.autocast()
        # Each weight is used once in a pass. Kept for another use, the 16-bit copies of all would be in memory at once.
        return self.accelerator.autocast(AutocastKwargs(cache_enabled=False))

    def _evaluating(self) -> AbstractContextManager[Any]:
        """Before training begins the library has not set the number format yet, and whole models are in 32 bits."""
        return self.compute_loss_context_manager() if self.recipe.adapter is not None else self._number_format()


def build_trainer(
    loaded: Loaded,
    recipe: Recipe,
    *,
    kind: type[Trainer] = Trainer,
    train: Sequence[Example],
    held_out: Sequence[Example],
    steps: int,
    root: Path,
    callback: TrainerCallback,
    passes: Passes,
    on_less: Callable[[int, str, str], None],
    group: Group | None = None,
) -> Trainer:
    """The trainer, ready for `train()`. Its checkpoints go into `root`. `kind` says what it learns, `group` with whom.

    Rows come tokenised, cut and labelled, so TRL is told to prepare nothing: it neither cuts (`max_length`) nor
    rebuilds labels. Only packing is left to it where rows are not joined, and there `max_length` is the length of a
    sequence that every row fits.
    """
    cuda = loaded.device == "cuda"
    # Unsloth's own chunked loss needs its own forward, which TRL's replaces. Unsloth turns packing off, silently, when
    # this variable asks for whole logits, and a trainer before this one may have set it.
    loss: dict[str, Any] = {"loss_type": "nll"} if recipe.engine == "unsloth" else {}
    os.environ["UNSLOTH_RETURN_LOGITS"] = "0"
    packs = recipe.packing and not loaded.joins  # by TRL
    columns, lengths = kind.columns(train), [example.length for example in train]
    extra: dict[str, Any] = {"group": group} if group is not None else {}
    if loaded.joins:
        columns = packed_rows(train, recipe.max_length, recipe.seed)
        lengths = [sum(rows) for rows in columns["seq_lengths"]]
        extra |= {"joins": True, "data_collator": _joining(columns, recipe, loaded.tokenizer)}
        if cuda and worth_compiling(steps, recipe.gradient_accumulation):
            print("The model's blocks are compiled first; that takes some 20 s.", flush=True)
            attention.compile_blocks(loaded.model)
    config = SFTConfig(
        output_dir=str(root),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing == "on",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=recipe.warmup_steps,
        optim=_optimizer(recipe),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=loaded.dtype == "bfloat16",
        fp16=loaded.dtype == "float16",
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        packing=packs,
        max_length=recipe.max_length if packs else None,
        dataset_kwargs=None if packs else {"skip_prepare_dataset": True},
        # What is logged, measured and saved, and when, is decided in one place: the callback.
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it waits for the card in each pass, and shows a NaN as a loss of 0
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **loss,
    )
    trainer = kind(
        model=loaded.model,
        args=config,
        processing_class=loaded.tokenizer,
        train_dataset=Dataset.from_dict(columns),
        callbacks=[callback],
        recipe=recipe,
        lengths=lengths,
        held_out=held_out,
        passes=passes,
        on_less=on_less,
        **extra,
    )
    trainer.remove_callback(PrinterCallback)  # the callback prints a line made for people
    return trainer


def _joining(columns: dict[str, list[Any]], recipe: Recipe, tokenizer: Any) -> Joining:
    longest = max(length for rows in columns["seq_lengths"] for length in rows)
    return Joining(
        length=recipe.batch_size * recipe.max_length,
        longest=longest,
        rows=recipe.batch_size * max(len(rows) for rows in columns["seq_lengths"]),
        filler=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )


def _real_tokens(inputs: dict[str, Any]) -> Any:
    """Tokens of a micro-batch that are not padding. Takes their number out of the inputs, if it is there."""
    if ROW_ENDS in inputs:
        return inputs.pop(REAL, 0)
    mask = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if mask is None else mask.sum()


def _optimizer(recipe: Recipe) -> str:
    """Over every weight AdamW works in one pass and in place; over an adapter, as ever, matrix by matrix."""
    fused = recipe.optimizer == "adamw_torch" and (recipe.adapter is None or torch.cuda.is_available())
    return "adamw_torch_fused" if fused else recipe.optimizer


def pad(examples: Sequence[Example], filler: int, device: Any) -> dict[str, torch.Tensor]:
    """Token ids, labels and mask as tensors [rows, tokens of the longest]."""
    width = max(len(example.input_ids) for example in examples)

    def tensor(rows: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([row + [value] * (width - len(row)) for row in rows], device=device)

    return {
        "input_ids": tensor([example.input_ids for example in examples], filler),
        "labels": tensor([example.labels for example in examples], IGNORED),
        "attention_mask": tensor([[1] * len(example.input_ids) for example in examples], 0),
    }
