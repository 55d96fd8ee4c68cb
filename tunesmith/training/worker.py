"""The training worker: `python -m tunesmith.training.worker RUN_DIR`.

Arguments of a `train` run: {dataset_id, base_model, recipe (resolved), plan (or null), download,
resume_from (a run's id; absent: from the beginning)}. It loads the rows and the base, measures the
held-out loss, trains, recovers when memory runs out, keeps the best adapter, registers the model and
returns a `TrainResult`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from tunesmith.errors import InvalidArgument, UserError
from tunesmith.models.without_bitsandbytes import leave_out_bitsandbytes
from tunesmith.training import continuing, recovery
from tunesmith.training.disk_room import check_disk, planned_disk
from tunesmith.training.finishing import finish
from tunesmith.training.hardware import CONTEXT_GIB
from tunesmith.training.loop import Loop
from tunesmith.training.material import read_material
from tunesmith.training.memory import Shape
from tunesmith.training.parallel import Others, others_beside
from tunesmith.training.process import keep_freed_memory
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import TrainResult
from tunesmith.training.room import wait_for_room
from tunesmith.work import Work, run_worker


class Training:
    """One training run, from rows to a registered model."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.began = time.monotonic()
        self.recipe = Recipe.model_validate(work.args["recipe"])
        self.plan: dict[str, Any] = work.args.get("plan") or {}
        self.predicted_peak_gib: float | None = (self.plan.get("memory") or {}).get("predicted_peak_gib")
        self.start: continuing.Start | None = None
        self.fallback: str | None = None
        self.loop: Loop | None = None

    def run(self) -> TrainResult:
        if source := self.work.args.get("resume_from"):
            self._take_over(source)
        self.material = read_material(self.work, self.recipe, self.start)
        self._check_disk()
        self._prepare_process()
        if self.recipe.processes == 1:
            return self._train(None)
        with others_beside(self.work, self.recipe) as others:
            return self._train(others)

    def _train(self, others: Others | None) -> TrainResult:
        self.work.progress("Loading the training libraries")
        self._choose_engine()
        need_gib = None
        if self.predicted_peak_gib is not None and self.plan.get("device") == "cuda":
            need_gib = self.predicted_peak_gib + CONTEXT_GIB
            for card in others.cards if others else [None]:
                wait_for_room(self.work, need_gib, card=card)
        self.loop = Loop(
            self.work,
            self.recipe,
            self.material,
            self.load,
            start=self.start,
            began=self.began,
            need_gib=need_gib,
            group=others.join() if others else None,
        )
        self.loop.run()
        if others is not None:
            others.leaving = True
            others.close()
        self.work.check_cancelled()
        return self._finish()

    def _take_over(self, source: str) -> None:
        """Everything that another run left: its newest whole checkpoint, its best one, what it measured."""
        self.work.progress("Verifying the checkpoint")
        self.start = start = continuing.take_over(self.work, source, self.work.run_dir / continuing.CHECKPOINTS)
        for line in start.set_aside:
            print(line, flush=True)
        print(f"Going on from step {start.saved.step} of {start.run_id}.", flush=True)
        continuing.check_same_rows(self.work.workspace, start.saved)

    def _check_disk(self) -> None:
        """Again, for the disk may have filled since the plan was made."""
        shape = Shape.from_config(json.loads((self.material.base / "config.json").read_text(encoding="utf-8")))
        check_disk(planned_disk(self.work.workspace, shape, self.recipe), self.recipe)

    def _prepare_process(self) -> None:
        # Read by OpenMP when torch is loaded. By default its threads spin while they wait for each other, which on
        # cores shared with other programs makes a step several times slower (measured: 49 against 347 tokens/s).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        # Batches of many lengths leave gaps that no later one fits; segments that grow have none. Read by torch.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        # On a CPU it warns of a kernel for 4-bit weights that nothing there needs. Its errors are shown.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        keep_freed_memory()

    def _choose_engine(self) -> None:
        if self.recipe.engine == "unsloth":
            from tunesmith.training.engines import unsloth_engine

            self.fallback = unsloth_engine.import_problem(self.work.run_dir)
            if self.fallback is None:
                self.load: Callable[..., Any] = unsloth_engine.load
                return
            print(f"{self.fallback} The transformers engine is used instead.", flush=True)
            self.recipe = self.recipe.model_copy(update={"engine": "transformers"})
        if self.recipe.method != "qlora" and "8bit" not in self.recipe.optimizer:
            leave_out_bitsandbytes()
        from tunesmith.training.engines import transformers_engine

        self.load = transformers_engine.load

    def _finish(self) -> TrainResult:
        assert self.loop is not None
        return finish(self.loop, predicted_peak_gib=self.predicted_peak_gib, fallback=self.fallback, began=self.began)


def train(work: Work) -> TrainResult:
    """The handler of kind `train`."""
    missing = [name for name in ("dataset_id", "base_model", "recipe") if name not in work.args]
    if missing:
        raise InvalidArgument(f"A train run lacks {', '.join(missing)}.", next="Start it with start_training.")
    training = Training(work)
    try:
        return training.run()
    except Exception as error:
        if isinstance(error, UserError) or not recovery.ran_out_of_memory(error):
            raise
        recipe = training.loop.recipe if training.loop else training.recipe
        raise recovery.exhausted(recipe, str(error)) from error


if __name__ == "__main__":
    run_worker({"train": train})
