"""The loop that trains, and that goes on with less when memory ran out."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import checkpoints
from tunesmith.errors import DoesNotFit
from tunesmith.machine.compute import choose_cpu_dtype
from tunesmith.training import continuing, facts, recovery
from tunesmith.training.continuing import Start
from tunesmith.training.injection import Injection
from tunesmith.training.keeping import load_trained
from tunesmith.training.material import Material
from tunesmith.training.measuring import measure_control, rows_to_measure
from tunesmith.training.passes import Passes
from tunesmith.training.process import cap_memory, usable_cores
from tunesmith.training.proposing import smaller_base
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import Recovery
from tunesmith.training.room import held_on_card, wait_for_room
from tunesmith.training.saved import Looks, Saved
from tunesmith.work import Work

if TYPE_CHECKING:
    from tunesmith.training.engines.group import Group

PATIENCE_TO_LOAD_S = 60.0  # for other programs to give memory back, before the base model is loaded again


class Loop:
    """Training, from a base model to one that is trained.

    Args:
        load: the engine's: (folder of the base, recipe, number format so far or None) → `Loaded`.
        start: where another run's training goes on; None: from the beginning.
        began: `time.monotonic()` of the worker's start.
        need_gib: memory of the card that the plan counts on; None: no card, or no plan.
        group: the processes that train together, of which this one leads; None: it trains alone.

    Attributes:
        recipe: as it is now, after stepping down when memory ran out.
        passes: how much goes through the model at a time, where that is less than the recipe says.
        recoveries: those steps down.
        trainer: of the last attempt.
        watch: what was measured while training.
        measured: the held-out rows that are measured.
        facts: of the rows, with the control.
        device, device_name, dtype: where and in which number format it is computed.
        startup_s: seconds until the first step.
    """

    def __init__(
        self,
        work: Work,
        recipe: Recipe,
        material: Material,
        load: Callable[..., Any],
        *,
        start: Start | None,
        began: float,
        need_gib: float | None = None,
        group: Group | None = None,
    ) -> None:
        from tunesmith.training.engines.watch import Watch

        self.work = work
        self.recipe = recipe
        self.material = material
        self.load = load
        self.start = start
        self.began = began
        self.need_gib = need_gib
        self.group = group
        self.root = work.run_dir / continuing.CHECKPOINTS
        self.facts = material.facts
        self.recoveries: list[Recovery] = list(start.saved.recoveries) if start else []
        self.dtype = start.saved.dtype if start else ""  # decided once for the whole training; empty until then
        self.trainer: Any = None
        self.joins = start.saved.joins if start else None  # likewise
        self.passes = start.saved.passes if start else Passes()
        self.loading = self.loaded_again = False
        self.injection = Injection.from_environment()
        if self.injection is not None:
            self.load = self.injection.load(load)
        self.watch = Watch(work, self.root, recipe, material.steps, self._describe)
        if start is not None:
            self.watch.go_on_from(start.saved.step, self._looks_to_go_on_with(start.saved))

    def run(self) -> None:
        """Train; when memory runs out, go on one step down from the newest whole checkpoint.

        Raises:
            OutOfMemory: nothing is left to give up, or the recipe says to fail.
        """
        from tunesmith.training.engines.parts import free_memory

        while (failure := self._attempt()) is not None:
            at = self.trainer.state.global_step if self.trainer is not None else None
            self.trainer = self.watch.trainer = None
            free_memory()
            change = self._less(failure)
            resume, problems = checkpoints.newest_whole(self.root)
            for problem in problems:
                print(problem, flush=True)
            step = checkpoints.step_of(resume) if resume else 0
            self._note(Recovery(step=step if at is None else at, resumed_from=step, change=change), failure)
            self.watch.recipe = self.recipe
            self.watch.go_on_from(step, Saved.read(resume).looks if resume else None)
        if self.group is not None:
            self.group.end()
            self.group = self.trainer.group = None

    def _less(self, failure: str) -> str:
        """Give up one thing. Returns what.

        Raises:
            OutOfMemory: nothing is left to give up, or the recipe says to fail.
        """
        down, loading = None, self.loading
        if self.recipe.on_out_of_memory == "recover":
            if not loading:
                longest = max(example.length for example in self.material.train)
                down = recovery.step_down(self.recipe, self.passes, longest)
            elif not self.loaded_again:
                # Nothing on the ladder makes the weights smaller, but another program may have held the memory.
                self.loaded_again = True
                if self.need_gib is not None:
                    with suppress(DoesNotFit):  # then it is tried with what there is
                        wait_for_room(self.work, self.need_gib, patience_s=PATIENCE_TO_LOAD_S)
                return recovery.LOADED_AGAIN
        if down is None:
            raise recovery.exhausted(
                self.recipe,
                failure,
                smaller=smaller_base(
                    self.material.base_model, self.material.base, self.recipe, languages=self.material.languages
                ),
                loading=loading,
                held=held_on_card(),
            )
        self.recipe, self.passes = down.recipe, down.passes
        return down.change

    def _note(self, recovered: Recovery, failure: str) -> None:
        self.recoveries.append(recovered)
        line = f"going on from step {recovered.resumed_from} with {recovered.change}"
        self.work.progress(f"Memory ran out; {line}")
        print(f"Memory ran out ({failure[:200]}): {line}.", flush=True)

    def _evaluated_with_less(self, step: int, change: str, failure: str) -> None:
        """An evaluation ran out of memory and went on; no step is trained again."""
        self._note(Recovery(step=step, resumed_from=step, change=change), failure)

    def _looks_to_go_on_with(self, state: Saved) -> Looks:
        """What the source measured. If it had stopped early and more is asked for now, its patience starts afresh."""
        patience = state.recipe.get("early_stopping_patience")
        asked_for_more = self.material.steps > state.total_steps or self.recipe.early_stopping_patience != patience
        if state.looks.stopped_early and asked_for_more:
            return state.looks.model_copy(update={"stopped_early": False, "looks_without_gain": 0})
        return state.looks

    def _describe(self, checkpoint: Path, step: int) -> None:
        material = self.material
        Saved(
            run_id=self.work.run_id,
            step=step,
            total_steps=material.steps,
            steps_per_epoch=material.steps_per_epoch,
            dataset_id=material.dataset_id,
            dataset_sha256=material.dataset_sha256,
            base_model=material.base_model,
            base_fingerprint=material.base_fingerprint,
            device=self.device,
            dtype=self.dtype,
            prompt_format=material.prompt_format.as_record(),
            recipe=self.recipe.model_dump(mode="json"),
            recoveries=self.recoveries,
            passes=self.passes,
            joins=bool(self.joins),
            looks=self.watch.looks,
        ).write(checkpoint)

    def _attempt(self) -> str | None:
        """One training from the newest checkpoint to the end. Returns the message if memory ran out."""
        try:
            self._one_training()
        except Exception as error:
            if not recovery.ran_out_of_memory(error):
                raise
            return str(error) or "the system gave no more"
        return None

    def _one_training(self) -> None:
        import torch

        self.work.check_cancelled()
        self.work.progress("Loading the base model")
        torch.set_num_threads(max(1, usable_cores() // self.recipe.processes))
        cap_memory(self.recipe.memory_budget_gib)
        if self.group is not None:
            self._tell_others_to_load(self.group)
        self.loading = True
        loaded = self.load(self.material.base, self.recipe, self.dtype or None, self.joins)
        self.loading = self.loaded_again = False
        self.device, self.device_name, self.dtype = loaded.device, loaded.device_name, loaded.dtype
        print(
            f"{self.material.base_model} on {loaded.device_name} in {loaded.dtype}, {torch.get_num_threads()} threads. "
            f"{loaded.dtype_reason}",
            flush=True,
        )
        if self.start is not None:
            continuing.check_same_numbers(loaded.device, loaded.dtype, self.start.saved)
            continuing.check_same_packing(loaded.joins, self.start.saved)
        self.joins = loaded.joins
        from tunesmith.training.engines.sft import Trainer, build_trainer

        kind = Trainer
        if self.material.objective == "dpo":
            from tunesmith.training.engines.preference import PreferenceTrainer as kind

        if self.group is not None:
            from tunesmith.training.engines.shared import SharedTrainer as kind
        self.measured = rows_to_measure(self.material.held_out, loaded.device)
        resume, _ = checkpoints.newest_whole(self.root)
        self.trainer = build_trainer(
            loaded,
            self.recipe,
            kind=kind,
            train=self.material.train,
            held_out=self.measured,
            steps=self.material.steps,
            root=self.root,
            callback=self.watch,
            passes=self.passes,
            on_less=self._evaluated_with_less,
            group=self.group,
        )
        self.watch.trainer = self.trainer
        if self.injection is not None:
            self.injection.arm(self.trainer)
        if self.watch.looks.before is None:
            self.work.check_cancelled()
            self.work.progress(f"Measuring the held-out loss of the base on {len(self.measured)} rows")
            # An adapter's B matrices are zero: this is the base's own loss.
            self.watch.measured_before(self.trainer.heldout_loss())
            self.facts = measure_control(
                self.trainer, self.material.held_out, self.facts, seed=self.recipe.seed, when="before"
            )
            facts.write(self.work.run_dir, self.facts)
        self.startup_s = time.monotonic() - self.began
        if resume is not None:
            self._go_on(resume)
            return
        self._tell_others_to_train(None)
        self.trainer.train()

    def _go_on(self, checkpoint: Path) -> None:
        """Train from a checkpoint to the end, which it may have reached: then only what was left out is made up for."""
        from transformers import TrainerState

        step = checkpoints.step_of(checkpoint)
        due = self.watch.look_is_due(step)
        if due or step >= self.material.steps or self.watch.looks.stopped_early:
            load_trained(self.trainer.model, checkpoint)
            self.trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if due:
            self.work.check_cancelled()
            self.work.progress(f"Measuring the held-out loss of step {step}")
            self.trainer.evaluate()
        if step < self.material.steps and not self.watch.looks.stopped_early:
            self._tell_others_to_train(str(checkpoint))
            self.trainer.train(resume_from_checkpoint=str(checkpoint))

    def _tell_others_to_load(self, group: Group) -> None:
        import torch

        from tunesmith.training.engines.group import Order, Task

        if not self.dtype and not torch.cuda.is_available():
            # Measured once, and not by each: on a busy machine they could measure otherwise.
            self.dtype, _ = choose_cpu_dtype()
        task = Task(
            base=self.material.base,
            recipe=self.recipe,
            dtype=self.dtype,
            train=self.material.train,
            held_out=self.material.held_out,
            steps=self.material.steps,
            root=self.root,
            passes=self.passes,
            joins=self.joins,
        )
        group.order(Order.LOAD, task)

    def _tell_others_to_train(self, checkpoint: str | None) -> None:
        if self.group is None:
            return
        from tunesmith.training.engines.group import Order

        self.group.order(Order.TRAIN, checkpoint)
        self.group.copy_weights(self.trainer.model)
