"""TRL's SFTTrainer, told to train on exactly the tokens and labels it is given.

Imported after the engine was loaded: Unsloth must have patched TRL by then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tunesmith import checkpoints
from tunesmith.files import TEMPORARY_PREFIX, raise_if_disk_full
from tunesmith.training.batching import epoch_order
from tunesmith.training.engines import head_loss
from tunesmith.training.engines.loaded import Loaded
from tunesmith.training.examples import IGNORED, Example
from tunesmith.training.recipe import Recipe


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


class Trainer(SFTTrainer):
    """SFTTrainer with our row order and a held-out loss that weighs every token alike.

    Attributes:
        recipe: the resolved recipe.
        held_out: the held-out rows that are measured.
        real_tokens: tokens trained on since the last `take_real_tokens`, without padding.
    """

    def __init__(
        self, *args: Any, recipe: Recipe, lengths: Sequence[int], held_out: Sequence[Example], **kwargs: Any
    ) -> None:
        self.recipe = recipe
        self.held_out = held_out
        self._lengths = lengths
        self._real_tokens: Any = 0
        super().__init__(*args, **kwargs)
        self._own_loss = recipe.engine == "transformers" and head_loss.can_take(self.model)

    def take_real_tokens(self) -> int:
        """Real tokens trained on since the last call. Waits for the device."""
        count, self._real_tokens = int(self._real_tokens), 0
        return count

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """None: the model's manifest says all of it, and a card would name this machine's paths."""

    def save_now(self) -> None:
        """Save a checkpoint of the last optimizer step, between two steps."""
        self._save_checkpoint(self.model, trial=None)  # pyright: ignore[reportArgumentType]
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the library does it, but into an empty folder, and telling a full disk from other failures.

        Raises:
            DiskFull: nothing is left of this checkpoint; earlier ones are untouched.
        """
        root = Path(str(self.args.output_dir))
        folder = checkpoints.folder_of(root, self.state.global_step)
        if folder.exists():  # its files may be shared with another run's checkpoint: never written over
            checkpoints.remove(folder)
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:  # noqa: BLE001 - raised again, after looking why
            # Writing in C++, the libraries raise their own errors without an errno: whether there is room is asked.
            problem = error if isinstance(error, OSError) else _no_room(root)
            try:
                if problem is not None:
                    raise_if_disk_full(problem, folder)
                raise
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As the library does it; then the rate is what this recipe's schedule gives for the next step.

        The stored rate is that of the old schedule, and a cosine that has run out would stay at zero for a step. With
        the recipe unchanged nothing changes here.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        scheduler = self.lr_scheduler
        if checkpoint is None or not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            return
        scheduler.base_lrs = [self.args.learning_rate] * len(scheduler.base_lrs)
        rates = [
            base * rate(scheduler.last_epoch)
            for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, base, rate in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, rates, strict=True):
            group["initial_lr"], group["lr"] = base, rate
        scheduler._last_lr = rates

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.recipe.packing:
            return super()._get_train_sampler(train_dataset)
        return StepOrder(self._lengths, self.recipe.effective_batch, self.recipe.seed)

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        logged = self.control.should_log
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)
        if logged:
            tr_loss.zero_()  # the library subtracts it from itself, and one NaN would stay in every later line

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.model is not None and self.model.training:
            mask = inputs.get("attention_mask")
            self._real_tokens = self._real_tokens + (inputs["input_ids"].numel() if mask is None else mask.sum())
            if self._own_loss and model is self.model and not args and not kwargs.get("return_outputs"):
                # The library's forward pass, which this goes around, is where a card's number format is set.
                with nullcontext() if self.args.use_cpu else self.accelerator.autocast():
                    return head_loss.loss_of(model, inputs, kwargs.get("num_items_in_batch"))
            if not self.args.use_cpu and not getattr(self, "aux_loss_enabled", False):
                # TRL's own also takes accuracy and entropy of each micro-batch off the card, and waits for it each
                # time. Looked up when called: Unsloth replaces it.
                inputs["use_cache"] = False
                return transformers.Trainer.compute_loss(self, model, inputs, *args, **kwargs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Held-out loss in nats per trained token, over all held-out rows at once (not a mean of batch means)."""
        metrics = {"eval_loss": self.heldout_loss()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def heldout_loss(self) -> float:
        """The loss on the held-out rows as the model is now."""
        model = self.model
        assert model is not None
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        pad: Any = self._tokenizer.pad_token_id
        os.environ["UNSLOTH_RETURN_LOGITS"] = "0"  # whole logits of a batch would be gigabytes
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        tokens = 0
        try:
            for rows in _evaluation_batches(self.held_out, self.recipe):
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
                count = sum(example.trained_tokens for example in rows)
                # Not inference_mode: what the kernels keep from here on would be unusable for a backward pass.
                with torch.no_grad(), self.compute_loss_context_manager():
                    loss_sum += model(**_pad(rows, pad, device)).loss.double() * count
                tokens += count
        finally:
            model.train(was_training)
        return float(loss_sum) / tokens


def build_trainer(
    loaded: Loaded,
    recipe: Recipe,
    *,
    train: Sequence[Example],
    held_out: Sequence[Example],
    steps: int,
    root: Path,
    callback: TrainerCallback,
) -> Trainer:
    """The trainer, ready for `train()`. Its checkpoints go into `root`.

    Rows come tokenised, cut and labelled, so TRL is told to prepare nothing: it neither cuts (`max_length`) nor
    rebuilds labels. Only packing is left to it, and there `max_length` is the length of a sequence that every row fits.
    """
    cuda = loaded.device == "cuda"
    # Unsloth's own chunked loss needs its own forward, which TRL's replaces. Unsloth turns packing off, silently, when
    # this variable asks for whole logits, and a trainer before this one may have set it.
    loss: dict[str, Any] = {"loss_type": "nll"} if recipe.engine == "unsloth" else {}
    os.environ["UNSLOTH_RETURN_LOGITS"] = "0"
    config = SFTConfig(
        output_dir=str(root),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing == "on",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=recipe.warmup_steps,
        optim=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=loaded.dtype == "bfloat16",
        fp16=loaded.dtype == "float16",
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        packing=recipe.packing,
        max_length=recipe.max_length if recipe.packing else None,
        dataset_kwargs=None if recipe.packing else {"skip_prepare_dataset": True},
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
    trainer = Trainer(
        model=loaded.model,
        args=config,
        processing_class=loaded.tokenizer,
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [example.input_ids for example in train],
                "labels": [example.labels for example in train],
            }
        ),
        callbacks=[callback],
        recipe=recipe,
        lengths=[len(example.input_ids) for example in train],
        held_out=held_out,
    )
    trainer.remove_callback(PrinterCallback)  # the callback prints a line made for people
    return trainer


def _evaluation_batches(held_out: Sequence[Example], recipe: Recipe) -> Iterator[list[Example]]:
    """The held-out rows, longest first, as many at a time as train in one pass.

    With packing a pass trains `batch_size` full sequences, so as many rows as take their tokens, padding included.
    """
    ordered = sorted(held_out, key=lambda example: -len(example.input_ids))
    start = 0
    while start < len(ordered):
        rows = recipe.batch_size
        if recipe.packing:
            rows = max(rows, rows * recipe.max_length // len(ordered[start].input_ids))
        yield ordered[start : start + rows]
        start += rows


def _no_room(folder: Path) -> OSError | None:
    """The error of writing a MiB there, if that is what fails."""
    probe = folder / f"{TEMPORARY_PREFIX}room"
    try:
        with probe.open("wb") as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return None


def _pad(examples: Sequence[Example], pad: int, device: Any) -> dict[str, torch.Tensor]:
    width = max(len(example.input_ids) for example in examples)

    def tensor(rows: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=device)

    return {
        "input_ids": tensor([example.input_ids for example in examples], pad),
        "labels": tensor([example.labels for example in examples], IGNORED),
        "attention_mask": tensor([[1] * len(example.input_ids) for example in examples], 0),
    }
