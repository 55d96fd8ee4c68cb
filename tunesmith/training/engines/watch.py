"""The callback that decides when to measure, save and stop, and writes the run's metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tunesmith import checkpoints
from tunesmith.errors import DiskFull
from tunesmith.training.disk_room import KEEP_CHECKPOINTS
from tunesmith.training.estimating import EVAL_SPEEDUP
from tunesmith.training.recipe import Recipe
from tunesmith.training.saved import Looks
from tunesmith.work import Cancelled, Work

LOG_EVERY_S = 0.5  # on a card: each line waits for it, and a step may take a few hundredths of a second
LOOK_EVERY_S = 3.0  # how often a look at the held-out rows says how far it is
METRIC_FIELDS = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_s", "gpu_gib")


class Watch(TrainerCallback):
    """One for a run; it outlives a trainer that ran out of memory.

    Args:
        describe: writes what the run knows into a checkpoint, before that is sealed.

    Attributes:
        looks: what was measured so far.
        trained_s, trained_tokens: seconds and real tokens of training in this process, evaluations and saves aside.
    """

    def __init__(
        self, work: Work, root: Path, recipe: Recipe, total_steps: int, describe: Callable[[Path, int], None]
    ) -> None:
        self.work = work
        self.root = root
        self.recipe = recipe
        self.total_steps = total_steps
        self.describe = describe
        self.trainer: Any = None
        self.looks = Looks()
        self.trained_s = 0.0
        self.trained_tokens = 0
        self._best_at: dict[int, int] = {}  # step of a checkpoint → the best step as that checkpoint knows it
        self._timed_from: float | None = None  # since when the clock runs; it stops where the card was waited for
        self._speed = 0.0
        self._began = 0.0
        self._began_step = 0
        self._first_done: float | None = None  # when the first step was; it may have compiled what the others use
        self._look_began = self._look_told = 0.0

    @property
    def last_logged(self) -> int:
        """The newest optimizer step whose loss was written."""
        return max(self.looks.losses, default=0)

    def measured_before(self, loss: float) -> None:
        """Take the held-out loss before the first step."""
        self.looks = Looks(before=loss, best=loss, last=loss)
        self._write(step=0, epoch=0.0, eval_loss=loss, **self.trainer.measured_besides(held_out=True))

    def go_on_from(self, step: int, looks: Looks | None) -> None:
        """Forget what came after the checkpoint of `step`, which knew `looks`. None: from the beginning."""
        before = self.looks.before
        self.looks = looks.model_copy(deep=True) if looks else Looks(before=before, best=before, last=before)
        self._best_at[step] = self.looks.best_step

    def look_is_due(self, step: int) -> bool:
        """Whether the held-out loss after `step` belongs to the run and was not measured: it was stopped before."""
        return step > self.looks.last_step and (step >= self.total_steps or step % self.recipe.eval_steps == 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began, self._began_step = time.monotonic(), state.global_step
        self._timed_from = self._first_done = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.work.stop_requested and state.global_step == self._began_step:
            raise Cancelled  # nothing was trained yet, so there is nothing to save
        if self._timed_from is None:
            self._timed_from = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if self._first_done is None:
            self._first_done = time.monotonic()
        last = step >= self.total_steps
        control.should_evaluate = last or step % self.recipe.eval_steps == 0
        control.should_save = last or step % self.recipe.save_steps == 0
        pause = control.should_evaluate or control.should_save or self.work.stop_requested
        control.should_log = pause or args.use_cpu or self._timed() >= LOG_EVERY_S
        if control.should_log:
            self._stop_clock()
        if self.work.stop_requested:
            control.should_save, control.should_evaluate, control.should_training_stop = True, False, True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step = state.global_step
        self.looks.losses[step] = float(logs["loss"])
        self._write(
            step=step,
            epoch=round(float(state.epoch or 0), 4),
            loss=float(logs["loss"]),
            learning_rate=logs.get("learning_rate"),
            grad_norm=float(logs["grad_norm"]) if logs.get("grad_norm") is not None else None,
            tokens_per_s=round(self._speed, 1),
            **self.trainer.measured_besides(held_out=False),
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
        looks = self.looks
        looks.last, looks.last_step = loss, step
        besides = self.trainer.measured_besides(held_out=True)
        self._write(step=step, epoch=round(float(state.epoch or 0), 4), eval_loss=loss, **besides)
        print(f"step {step}/{self.total_steps}  held-out loss {loss:.4f}", flush=True)
        if looks.best is None or loss < looks.best:
            looks.best, looks.best_step, looks.looks_without_gain = loss, step, 0
            control.should_save = True  # the best is kept on disk, whatever comes after
            return
        looks.looks_without_gain += 1
        patience = self.recipe.early_stopping_patience
        if patience is not None and looks.looks_without_gain >= patience and step < self.total_steps:
            looks.stopped_early = True
            control.should_training_stop = True
            print(f"Stopping early: no better held-out loss in {patience} looks.", flush=True)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        folder = checkpoints.folder_of(self.root, step)
        try:
            self.describe(folder, step)
            checkpoints.seal(folder, step)
        except (OSError, DiskFull):
            checkpoints.remove(folder)  # the room is needed to tell of it
            raise
        self._best_at[step] = self.looks.best_step
        kept = checkpoints.sealed_steps(self.root)[-KEEP_CHECKPOINTS:]
        # The best of each one kept, not only today's: if the newest turns out damaged, the one before needs its own.
        checkpoints.prune(
            self.root,
            keep=KEEP_CHECKPOINTS,
            protect=[self.looks.best_step, *(self._best_at.get(step, 0) for step in kept)],
        )
        if self.work.stop_requested:
            control.should_training_stop = True

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if not self.work.stop_requested:
            self._tell_of_look(step, probe=step == 0 and args.use_cpu)
            return
        # An evaluation may take minutes: what was trained is saved now. The run that goes on makes up for the look.
        if step > 0 and not checkpoints.is_sealed(checkpoints.folder_of(self.root, step)):
            self.trainer.save_now()
        raise Cancelled

    def _timed(self) -> float:
        return time.monotonic() - self._timed_from if self._timed_from is not None else 0.0

    def _stop_clock(self) -> None:
        """Count what was trained since the clock began to run, when the card has done it."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds, tokens = self._timed(), self.trainer.take_real_tokens()
        self._timed_from = None
        self.trained_s += seconds
        self.trained_tokens += tokens
        self._speed = tokens / max(seconds, 1e-9)

    def _eta(self, step: int) -> float:
        """Seconds left, by the pace so far; the first step counts only while there is no other."""
        now, done = time.monotonic(), step - self._began_step
        if done > 1 and self._first_done is not None:
            pace = (now - self._first_done) / (done - 1)
        else:
            pace = (now - self._began) / max(1, done)
        return pace * (self.total_steps - step)

    def _tell_of_look(self, step: int, *, probe: bool) -> None:
        """How far a look at the held-out rows is. The one before the first step is also a probe of the whole run.

        Args:
            probe: say how long the run should take. Not on a card, which is asked for more before it is done.
        """
        rows_done, rows, done, tokens = self.trainer.looking
        now = time.monotonic()
        if rows_done == 0:
            self._look_began = self._look_told = now
        if now - self._look_told < LOOK_EVERY_S:
            return
        self._look_told = now
        eta = round(self._eta(step), 1) if step else None
        planned = ((self.work.args.get("plan") or {}).get("tokens") or {}).get("real")
        if probe and planned:
            looks = 1 + self.total_steps // self.recipe.eval_steps
            left = (tokens - done) + looks * tokens + planned * EVAL_SPEEDUP
            eta = round(left * (now - self._look_began) / done, 1)
        self.work.progress(f"Held-out rows: {rows_done} of {rows}", step=step, total_steps=self.total_steps, eta_s=eta)

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
