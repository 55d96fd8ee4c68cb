"""The callback that decides when to measure, save and stop, and writes the run's metrics."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tunesmith.training import checkpoints
from tunesmith.training.recipe import Recipe
from tunesmith.work import Cancelled, Work

KEEP_CHECKPOINTS = 2
METRIC_FIELDS = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_s", "gpu_gib")


class Watch(TrainerCallback):
    """One for a run; it outlives a trainer that ran out of memory.

    Attributes:
        before, best, last: held-out losses, nats per token; None until measured.
        best_step: optimizer step of the best.
        trained_s, trained_tokens: seconds and real tokens of training, evaluations and saves aside.
        losses: training loss of each step.
    """

    def __init__(self, work: Work, root: Path, recipe: Recipe, total_steps: int) -> None:
        self.work = work
        self.root = root
        self.recipe = recipe
        self.total_steps = total_steps
        self.trainer: Any = None
        self.before: float | None = None
        self.best: float | None = None
        self.best_step = 0
        self.last: float | None = None
        self.last_step = 0
        self.looks_without_gain = 0
        self.stopped_early = False
        self.trained_s = 0.0
        self.trained_tokens = 0
        self.losses: dict[int, float] = {}
        self._step_began = 0.0
        self._speed = 0.0
        self._began = 0.0
        self._began_step = 0

    @property
    def last_logged(self) -> int:
        """The newest optimizer step whose loss was written."""
        return max(self.losses, default=0)

    def measured_before(self, loss: float) -> None:
        """Take the held-out loss before the first step."""
        self.before = self.best = self.last = loss
        self._write(step=0, epoch=0.0, eval_loss=loss)

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: the run goes on from there with another trainer."""
        self.losses = {done: loss for done, loss in self.losses.items() if done <= step}
        self.looks_without_gain = 0
        if self.best_step > step:
            self.best_step, self.best = 0, self.before

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began, self._began_step = time.monotonic(), state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        tokens = self.trainer.take_real_tokens()
        seconds = time.monotonic() - self._step_began
        self.trained_s += seconds
        self.trained_tokens += tokens
        self._speed = tokens / max(seconds, 1e-9)
        last = step >= self.total_steps
        control.should_log = True
        control.should_evaluate = last or step % self.recipe.eval_steps == 0
        control.should_save = last or step % self.recipe.save_steps == 0
        if self.work.stop_requested:
            control.should_save, control.should_evaluate, control.should_training_stop = True, False, True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step = state.global_step
        self.losses[step] = float(logs["loss"])
        self._write(
            step=step,
            epoch=round(float(state.epoch or 0), 4),
            loss=float(logs["loss"]),
            learning_rate=logs.get("learning_rate"),
            grad_norm=float(logs["grad_norm"]) if logs.get("grad_norm") is not None else None,
            tokens_per_s=round(self._speed, 1),
        )
        eta = self._eta(step)
        self.work.progress(
            f"Step {step} of {self.total_steps}: loss {float(logs['loss']):.3f}, {self._speed:.0f} tokens/s, "
            f"about {eta:.0f} s left",
            step=step,
            total_steps=self.total_steps,
            eta_s=round(eta, 1),
        )
        print(
            f"step {step}/{self.total_steps}  loss {float(logs['loss']):.4f}  lr {logs.get('learning_rate', 0):.2e}  "
            f"{self._speed:.0f} tokens/s  eta {eta:.0f} s",
            flush=True,
        )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        loss = (metrics or {})["eval_loss"]
        step = state.global_step
        self.last, self.last_step = loss, step
        self._write(step=step, epoch=round(float(state.epoch or 0), 4), eval_loss=loss)
        print(f"step {step}/{self.total_steps}  held-out loss {loss:.4f}", flush=True)
        if self.best is None or loss < self.best:
            self.best, self.best_step, self.looks_without_gain = loss, step, 0
            control.should_save = True  # the best is kept on disk, whatever comes after
            return
        self.looks_without_gain += 1
        patience = self.recipe.early_stopping_patience
        if patience is not None and self.looks_without_gain >= patience and step < self.total_steps:
            self.stopped_early = True
            control.should_training_stop = True
            print(f"Stopping early: no better held-out loss in {patience} looks.", flush=True)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        checkpoints.seal(checkpoints.folder_of(self.root, step), step)
        checkpoints.prune(self.root, keep=KEEP_CHECKPOINTS, protect=[self.best_step])

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.work.stop_requested and state.global_step == 0:
            raise Cancelled  # nothing was trained yet, so there is nothing to save

    def _eta(self, step: int) -> float:
        done = step - self._began_step
        return (time.monotonic() - self._began) / max(1, done) * (self.total_steps - step)

    def _write(self, **values: Any) -> None:
        line: dict[str, Any] = dict.fromkeys(METRIC_FIELDS)
        line.update({name: _finite(value) for name, value in values.items()})
        if torch.cuda.is_available():
            line["gpu_gib"] = round(torch.cuda.memory_reserved() / 2**30, 3)
        self.work.metric(line)


def _finite(value: Any) -> Any:
    """JSON has no NaN; a string keeps it visible to the reader and to the diagnosis."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
