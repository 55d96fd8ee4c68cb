"""Checkpoints that are whole or not there, and going on from one with the schedule of this recipe."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from tunesmith import checkpoints
from tunesmith.files import TEMPORARY_PREFIX, raise_if_disk_full
from tunesmith.training.engines.lean import LeanTrainer


class SavingTrainer(LeanTrainer):
    """SFTTrainer that saves into an empty folder, and knows a full disk from other failures."""

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
