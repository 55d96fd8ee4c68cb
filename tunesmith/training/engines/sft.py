"""TRL's SFTTrainer, told to train on exactly the tokens and labels it is given.

Imported after the engine was loaded: Unsloth must have patched TRL by then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tunesmith import checkpoints
from tunesmith.files import TEMPORARY_PREFIX, raise_if_disk_full
from tunesmith.training.batching import epoch_order
from tunesmith.training.engines.loaded import Loaded
from tunesmith.training.examples import IGNORED, Example
from tunesmith.training.memory import CPU_LOGIT_TOKENS
from tunesmith.training.recipe import Recipe

# Models whose scores are the head's product and nothing more (no soft cap, no scale).
PLAIN_HEADS = frozenset({"llama", "qwen2", "qwen3", "mistral"})


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
        config = self.model.config if self.model is not None else None
        self._on_cpu = self.args.use_cpu and getattr(config, "model_type", None) in PLAIN_HEADS

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

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.model is not None and self.model.training:
            mask = inputs.get("attention_mask")
            self._real_tokens = self._real_tokens + (inputs["input_ids"].numel() if mask is None else mask.sum())
            if self._on_cpu and not args and not kwargs.get("return_outputs"):
                return _cpu_loss(model, inputs, kwargs.get("num_items_in_batch"))
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
        loss_sum = tokens = 0.0
        ordered = sorted(self.held_out, key=lambda example: -len(example.input_ids))
        try:
            for start in range(0, len(ordered), self.recipe.batch_size):
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
                batch = _pad(ordered[start : start + self.recipe.batch_size], pad, device)
                count = int((batch["labels"][:, 1:] != IGNORED).sum())
                with torch.inference_mode(), self.compute_loss_context_manager():
                    loss_sum += float(model(**batch).loss) * count
                tokens += count
        finally:
            model.train(was_training)
        return loss_sum / tokens


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
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
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


def _cpu_loss(model: Any, inputs: dict[str, Any], items: Any) -> torch.Tensor:
    """Cross entropy with scores only where a token is trained.

    TRL's own does that too, in chunks whose scores are always computed twice, and adds the entropy over the
    vocabulary: 11 % (float32) to 18 % (bfloat16) of a step's time on a CPU.

    Args:
        items: trained tokens of the whole optimizer step, by which the sum is divided; None: those of this batch.
    """
    causal = model.get_base_model()
    labels = inputs["labels"][:, 1:]
    trained = labels != IGNORED
    context = {name: inputs[name] for name in ("attention_mask", "position_ids") if name in inputs}
    hidden = causal.base_model(input_ids=inputs["input_ids"], use_cache=False, **context).last_hidden_state
    head = causal.get_output_embeddings()

    def summed_loss(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(head(states).float(), wanted, reduction="sum")

    states, wanted = hidden[:, :-1][trained], labels[trained]
    if len(wanted) <= CPU_LOGIT_TOKENS:
        total = summed_loss(states, wanted)
    else:
        # A batch of long rows: its scores, kept whole, would take gigabytes.
        parts = zip(states.split(CPU_LOGIT_TOKENS), wanted.split(CPU_LOGIT_TOKENS), strict=True)
        total = torch.stack([checkpoint(summed_loss, *part, use_reentrant=False) for part in parts]).sum()
    return total / (items if items is not None else max(1, len(wanted)))


def _pad(examples: Sequence[Example], pad: int, device: Any) -> dict[str, torch.Tensor]:
    width = max(len(example.input_ids) for example in examples)

    def tensor(rows: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=device)

    return {
        "input_ids": tensor([example.input_ids for example in examples], pad),
        "labels": tensor([example.labels for example in examples], IGNORED),
        "attention_mask": tensor([[1] * len(example.input_ids) for example in examples], 0),
    }
