"""The training worker: `python -m tunesmith.training.worker RUN_DIR`.

Arguments of a `train` run: {dataset_id, base_model, recipe (resolved), plan (or null), download,
resume_from (a run's id; absent: from the beginning)}. It loads the rows and the base, measures the
held-out loss, trains, recovers when memory runs out, keeps the best adapter, registers the model and
returns a `TrainResult`.
"""

from __future__ import annotations

import gc
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tunesmith import checkpoints
from tunesmith.data.store import DatasetStore
from tunesmith.errors import InvalidArgument, UserError
from tunesmith.models.bases import base_folder, prompt_format_for, tokenizer_for
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.runs.supervisor import Supervisor
from tunesmith.training import continuing, facts, history, reclaiming, recovery
from tunesmith.training.batching import packed_sequences
from tunesmith.training.choices import count_steps
from tunesmith.training.diagnosis import diagnose
from tunesmith.training.examples import Example, refuse_untrained, split_rows, tokenise
from tunesmith.training.hardware import CONTEXT_GIB
from tunesmith.training.keeping import keep_model
from tunesmith.training.process import GIB, keep_freed_memory, peak_ram_gib, usable_cores
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import EvalLoss, Perplexity, PlannedRows, Recovery, ResumedFrom, TrainResult
from tunesmith.training.room import wait_for_room
from tunesmith.training.saved import Looks, Saved, fingerprint
from tunesmith.work import Work, run_worker

EVAL_ROWS_CPU, EVAL_ROWS_CUDA = 64, 512  # held-out rows that are measured; more would cost more than they tell
TEST_OOM_VARIABLE = "TUNESMITH_TEST_OUT_OF_MEMORY_AT_STEP"  # for tests: raise torch's error once, before that step


class Training:
    """One training run, from rows to a registered model."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.began = time.monotonic()
        self.recipe = Recipe.model_validate(work.args["recipe"])
        self.base_model: str = work.args["base_model"]
        self.dataset_id: str = work.args["dataset_id"]
        self.plan: dict[str, Any] = work.args.get("plan") or {}
        self.root = work.run_dir / continuing.CHECKPOINTS
        self.start: continuing.Start | None = None
        self.dtype = ""  # of the computation, decided once for the whole training; empty until then
        self.recoveries: list[Recovery] = []
        self.fallback: str | None = None
        self.trainer: Any = None
        self.injected = False

    def run(self) -> TrainResult:
        if source := self.work.args.get("resume_from"):
            self._take_over(source)
        self._read_rows()
        self._prepare_process()
        self.work.progress("Loading the training libraries")
        self._choose_engine()
        need = (self.plan.get("memory") or {}).get("predicted_peak_gib")
        if need is not None and self.plan.get("device") == "cuda":
            wait_for_room(self.work, need + CONTEXT_GIB)
        self._train_until_done()
        self.work.check_cancelled()
        return self._finish()

    def _take_over(self, source: str) -> None:
        """Everything that another run left: its newest whole checkpoint, its best one, what it measured."""
        self.work.progress("Verifying the checkpoint")
        self.start = start = continuing.take_over(self.work, source, self.root)
        for line in start.set_aside:
            print(line, flush=True)
        print(f"Going on from step {start.saved.step} of {start.run_id}.", flush=True)
        continuing.check_same_rows(self.work.workspace, start.saved)
        self.recoveries, self.dtype = list(start.saved.recoveries), start.saved.dtype

    def _read_rows(self) -> None:
        """Everything that can be refused is refused here, before a library of several hundred MiB is loaded."""
        work, recipe = self.work, self.recipe
        work.progress("Reading the rows")
        store = DatasetStore(work.workspace)
        self.dataset_sha256 = store.get(self.dataset_id).sha256
        split = split_rows(store.rows(self.dataset_id), eval_fraction=recipe.eval_fraction, seed=recipe.seed)
        self.folder = base_folder(work.workspace, self.base_model, download=bool(work.args.get("download")))
        self.base_fingerprint = fingerprint(self.folder)
        if self.start is None:
            self.prompt_format = prompt_format_for(work.workspace, self.base_model, recipe.prompt_format)
        else:
            continuing.check_same_base(self.base_fingerprint, self.start.saved)
            # Not made anew: some templates print the date, and tomorrow's would be another text.
            self.prompt_format = PromptFormat.from_record(self.start.saved.prompt_format)
        tokenizer = tokenizer_for(work.workspace, self.base_model)

        def tokens_of(rows: list[Any]) -> list[Example]:
            return tokenise(
                rows, self.prompt_format, tokenizer, max_length=recipe.max_length, on_batch=work.check_cancelled
            )

        self.train, self.held_out = tokens_of(split.train), tokens_of(split.eval)
        refuse_untrained([*self.train, *self.held_out], recipe.max_length)
        cut = [example for example in (*self.train, *self.held_out) if example.was_cut]
        self.facts = facts.measure(
            split.train,
            split.eval,
            self.train,
            vocabulary=tokenizer.get_vocab_size(),
            end_token=tokenizer.token_to_id(self.prompt_format.eos),
        )
        if self.start is not None and (known := facts.read(work.workspace.runs / self.start.run_id)) is not None:
            self.facts = self.facts.model_copy(update={"control_before": known.control_before})
        facts.write(work.run_dir, self.facts)
        self.rows = PlannedRows(train=len(self.train), eval=len(self.held_out), cut=len(cut))
        print(
            f"{len(self.train)} rows to train on, {len(self.held_out)} held out ({split.by}); {len(cut)} cut",
            flush=True,
        )
        for example in cut[:20]:
            print(f"  cut: {example.row_id} from {example.tokens_before_cut} to {recipe.max_length} tokens", flush=True)
        sequences = len(self.train)
        if recipe.packing:
            sequences = packed_sequences([len(example.input_ids) for example in self.train], recipe.max_length)
        self.steps, self.steps_per_epoch = count_steps(recipe.model_dump(), sequences)

    def _prepare_process(self) -> None:
        # Read by OpenMP when torch is loaded. By default its threads spin while they wait for each other, which on
        # cores shared with other programs makes a step several times slower (measured: 49 against 347 tokens/s).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        # Batches of many lengths leave gaps that no later one fits; segments that grow have none. Read by torch.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
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
        from tunesmith.training.engines import transformers_engine

        self.load = transformers_engine.load

    def _train_until_done(self) -> None:
        """Train; when memory runs out, go on one step down from the newest whole checkpoint."""
        from tunesmith.training.engines.watch import Watch

        self.watch = Watch(self.work, self.root, self.recipe, self.steps, self._describe)
        if self.start is not None:
            self.watch.go_on_from(self.start.saved.step, self._looks_to_go_on_with(self.start.saved))
        while True:
            failure = self._attempt()
            if failure is None:
                return
            down = recovery.step_down(self.recipe) if self.recipe.on_out_of_memory == "recover" else None
            if down is None:
                longest = max(len(example.input_ids) for example in self.train)
                raise recovery.exhausted(self.recipe, failure, longest)
            self._free()
            resume, problems = checkpoints.newest_whole(self.root)
            for problem in problems:
                print(problem, flush=True)
            step = checkpoints.step_of(resume) if resume else 0
            self.recipe, change = down
            self.recoveries.append(Recovery(step=self.watch.last_logged, resumed_from=step, change=change))
            self.watch.recipe = self.recipe
            self.watch.go_on_from(step, Saved.read(resume).looks if resume else None)
            self.work.progress(f"Memory ran out; going on from step {step} with {change}")
            print(f"Memory ran out ({failure[:200]}). Going on from step {step} with {change}.", flush=True)

    def _looks_to_go_on_with(self, state: Saved) -> Looks:
        """What the source measured. If it had stopped early and more is asked for now, its patience starts afresh."""
        patience = state.recipe.get("early_stopping_patience")
        asked_for_more = self.steps > state.total_steps or self.recipe.early_stopping_patience != patience
        if state.looks.stopped_early and asked_for_more:
            return state.looks.model_copy(update={"stopped_early": False, "looks_without_gain": 0})
        return state.looks

    def _describe(self, checkpoint: Path, step: int) -> None:
        Saved(
            run_id=self.work.run_id,
            step=step,
            total_steps=self.steps,
            steps_per_epoch=self.steps_per_epoch,
            dataset_id=self.dataset_id,
            dataset_sha256=self.dataset_sha256,
            base_model=self.base_model,
            base_fingerprint=self.base_fingerprint,
            device=self.device,
            dtype=self.dtype,
            prompt_format=self.prompt_format.as_record(),
            recipe=self.recipe.model_dump(mode="json"),
            recoveries=self.recoveries,
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
        torch.set_num_threads(usable_cores())
        self._cap_memory()
        loaded = self.load(self.folder, self.recipe, self.dtype or None)
        self.device, self.device_name, self.dtype = loaded.device, loaded.device_name, loaded.dtype
        print(
            f"{self.base_model} on {loaded.device_name} in {loaded.dtype}, {torch.get_num_threads()} threads. "
            f"{loaded.dtype_reason}",
            flush=True,
        )
        if self.start is not None:
            continuing.check_same_numbers(loaded.device, loaded.dtype, self.start.saved)
        from tunesmith.training.engines.sft import build_trainer

        limit = EVAL_ROWS_CUDA if loaded.device == "cuda" else EVAL_ROWS_CPU
        # Every n-th row rather than the first ones: rows of one note lie together.
        spread = max(1, math.ceil(len(self.held_out) / limit))
        self.measured = self.held_out[::spread]
        resume, _ = checkpoints.newest_whole(self.root)
        self.trainer = build_trainer(
            loaded,
            self.recipe,
            train=self.train,
            held_out=self.measured,
            steps=self.steps,
            root=self.root,
            callback=self.watch,
        )
        self.watch.trainer = self.trainer
        self._inject_out_of_memory()
        if self.watch.looks.before is None:
            self.work.check_cancelled()
            self.work.progress(f"Measuring the held-out loss of the base on {len(self.measured)} rows")
            # The adapter's B matrices are zero: this is the base's own loss.
            self.watch.measured_before(self.trainer.heldout_loss())
            self._measure_control("before")
        self.startup_s = time.monotonic() - self.began
        if resume is None:
            self.trainer.train()
        else:
            self._go_on(resume)

    def _measure_control(self, when: Literal["before", "after"]) -> None:
        """The loss on some held-out rows with their own answers and with each other's: do the answers belong?"""
        own, exchanged = facts.control_pairs(self.held_out, self.recipe.seed)
        if not own:
            return
        trainer = self.trainer
        losses = []
        try:
            for trainer.held_out in (own, exchanged):
                losses.append(trainer.heldout_loss())
        finally:
            trainer.held_out = self.measured
        self.facts = facts.with_control(self.facts, when=when, rows=len(own), own=losses[0], exchanged=losses[1])
        facts.write(self.work.run_dir, self.facts)

    def _go_on(self, checkpoint: Path) -> None:
        """Train from a checkpoint to the end, which it may have reached: then only what was left out is made up for."""
        from transformers import TrainerState

        step = checkpoints.step_of(checkpoint)
        due = self.watch.look_is_due(step)
        if due or step >= self.steps or self.watch.looks.stopped_early:
            self._load_adapter(checkpoint)
            self.trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if due:
            self.work.check_cancelled()
            self.work.progress(f"Measuring the held-out loss of step {step}")
            self.trainer.evaluate()
        if step < self.steps and not self.watch.looks.stopped_early:
            self.trainer.train(resume_from_checkpoint=str(checkpoint))

    def _cap_memory(self) -> None:
        import torch

        if torch.cuda.is_available() and self.recipe.memory_budget_gib is not None:
            total = torch.cuda.get_device_properties(0).total_memory / GIB
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.recipe.memory_budget_gib / total))

    def _inject_out_of_memory(self) -> None:
        """For tests: the error torch raises, once, where a real one would come from."""
        at = os.environ.get(TEST_OOM_VARIABLE)
        if at is None or self.injected:
            return
        import torch

        original, trainer = self.trainer.training_step, self.trainer

        def training_step(*args: Any, **kwargs: Any) -> Any:
            if trainer.state.global_step + 1 >= int(at) and not self.injected:
                self.injected = True
                raise torch.OutOfMemoryError("injected by a test")
            return original(*args, **kwargs)

        self.trainer.training_step = training_step

    def _free(self) -> None:
        import torch

        self.trainer = self.watch.trainer = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _finish(self) -> TrainResult:
        watch, looks = self.watch, self.watch.looks
        assert looks.before is not None
        assert looks.last is not None
        assert looks.best is not None
        self.work.progress("Keeping the best adapter")
        after, kept_step = looks.last, looks.last_step
        if looks.best_step not in (0, looks.last_step):
            self._load_adapter(checkpoints.folder_of(self.root, looks.best_step))
            after, kept_step = looks.best, looks.best_step
        self._measure_control("after")
        speed = watch.trained_tokens / max(watch.trained_s, 1e-9)
        peak_gpu, peak_ram = self._peak_gpu(), peak_ram_gib()
        predicted = (self.plan.get("memory") or {}).get("predicted_peak_gib")
        losses = [loss for _, loss in sorted(looks.losses.items())]
        tail = losses[-max(1, len(losses) // 10) :]
        result = TrainResult(
            model_id="",
            steps=watch.last_logged,
            train_loss=sum(tail) / len(tail),
            eval_loss=EvalLoss(before=looks.before, after=after, best=min(looks.best, after)),
            perplexity=Perplexity(before=_perplexity(looks.before), after=_perplexity(after)),
            peak_gpu_gib=peak_gpu,
            peak_ram_gib=peak_ram,
            predicted_peak_gib=predicted,
            tokens_per_s=round(speed, 1),
            duration_s=0.0,
            recoveries=self.recoveries,
            diagnosis=diagnose(
                read_metrics(self.work.run_dir),
                {"recoveries": [step.model_dump() for step in self.recoveries]},
                None,
                self.work.args["recipe"],  # as it was begun: what the recoveries changed is counted from there
                self.facts,
            ),
            rows=self.rows,
            eval_rows_measured=len(self.measured),
            best_step=kept_step,
            stopped_early=looks.stopped_early,
            engine=self.recipe.engine,
            engine_fallback=self.fallback,
            device=self.device,
            dtype=self.dtype,
            resumed_from=ResumedFrom(run_id=self.start.run_id, step=self.start.saved.step) if self.start else None,
            checkpoints_set_aside=self.start.set_aside if self.start else [],
        )
        model_id = keep_model(
            self.work,
            self.trainer.model,
            base=self.folder,
            prompt_format=self.prompt_format,
            recipe=self.recipe,
            result=result,
        )
        if watch.trained_tokens:  # a run that only had to be finished measured nothing
            history.record(
                self.work.workspace,
                history.Measured(
                    run_id=self.work.run_id,
                    base_model=self.base_model,
                    engine=self.recipe.engine,
                    device=self.device,
                    device_name=self.device_name,
                    method=self.recipe.method,
                    packing=self.recipe.packing,
                    tokens_per_s=round(speed, 1),
                    predicted_peak_gib=None if self.recoveries else predicted,
                    peak_gib=peak_gpu if peak_gpu is not None else peak_ram,
                    startup_s=round(self.startup_s, 1),
                ),
            )
        # Enough to go on with more epochs; the checkpoints of the runs this one continues have served.
        checkpoints.prune(self.root, keep=1, protect=[looks.best_step])
        reclaiming.drop_ancestors(Supervisor(self.work.workspace), self.work.run_id)
        return result.model_copy(update={"model_id": model_id, "duration_s": round(time.monotonic() - self.began, 1)})

    def _load_adapter(self, checkpoint: Path) -> None:
        """Put a checkpoint's adapter weights into the model."""
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(self.trainer.model, load_peft_weights(str(checkpoint), device="cpu"))

    def _peak_gpu(self) -> float | None:
        if self.device != "cuda":
            return None
        import torch

        return round(torch.cuda.max_memory_reserved() / GIB, 3)


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
        raise recovery.exhausted(training.recipe, str(error)) from error


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; half a line is skipped."""
    path = run_dir / "metrics.jsonl"
    lines = []
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _perplexity(loss: float) -> float:
    return round(math.exp(min(loss, 80.0)), 4)


if __name__ == "__main__":
    run_worker({"train": train})
