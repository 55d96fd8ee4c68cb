"""The training worker: `python -m tunesmith.training.worker RUN_DIR`.

Arguments of a `train` run: {dataset_id, base_model, recipe (resolved), plan (or null), download}.
It loads the rows and the base, measures the held-out loss, trains, recovers when
memory runs out, keeps the best adapter, registers the model and returns a `TrainResult`.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tunesmith.data.store import DatasetStore
from tunesmith.errors import InvalidArgument
from tunesmith.models.bases import base_folder, prompt_format_for, tokenizer_for
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.training import checkpoints, history, recovery
from tunesmith.training.batching import packed_sequences
from tunesmith.training.choices import count_steps
from tunesmith.training.diagnosis import diagnose
from tunesmith.training.examples import Example, refuse_untrained, split_rows, tokenise
from tunesmith.training.keeping import keep_model
from tunesmith.training.recipe import Recipe
from tunesmith.training.records import EvalLoss, Perplexity, PlannedRows, Recovery, TrainResult
from tunesmith.work import Work, run_worker

GIB = 2**30
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
        self.root = work.run_dir / "checkpoints"
        self.recoveries: list[Recovery] = []
        self.fallback: str | None = None
        self.trainer: Any = None
        self.injected = False

    def run(self) -> TrainResult:
        self._read_rows()
        self._prepare_process()
        self.work.progress("Loading the training libraries")
        self._choose_engine()
        self._train_until_done()
        self.work.check_cancelled()
        return self._finish()

    def _read_rows(self) -> None:
        """Everything that can be refused is refused here, before a library of several hundred MiB is loaded."""
        work, recipe = self.work, self.recipe
        work.progress("Reading the rows")
        split = split_rows(
            DatasetStore(work.workspace).rows(self.dataset_id), eval_fraction=recipe.eval_fraction, seed=recipe.seed
        )
        self.folder = base_folder(work.workspace, self.base_model, download=bool(work.args.get("download")))
        self.prompt_format: PromptFormat = prompt_format_for(work.workspace, self.base_model, recipe.prompt_format)
        tokenizer = tokenizer_for(work.workspace, self.base_model)

        def tokens_of(rows: list[Any]) -> list[Example]:
            return tokenise(
                rows, self.prompt_format, tokenizer, max_length=recipe.max_length, on_batch=work.check_cancelled
            )

        self.train, self.held_out = tokens_of(split.train), tokens_of(split.eval)
        refuse_untrained([*self.train, *self.held_out], recipe.max_length)
        cut = [example for example in (*self.train, *self.held_out) if example.was_cut]
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
        self.steps, _ = count_steps(recipe.model_dump(), sequences)

    def _prepare_process(self) -> None:
        # Read by OpenMP when torch is loaded. By default its threads spin while they wait for each other, which on
        # cores shared with other programs makes a step several times slower (measured: 49 against 347 tokens/s).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
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

        self.watch = Watch(self.work, self.root, self.recipe, self.steps)
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
            step = _step_of(resume)
            self.recipe, change = down
            self.recoveries.append(Recovery(step=self.watch.last_logged, resumed_from=step, change=change))
            self.watch.recipe = self.recipe
            self.watch.rewind(step)
            self.work.progress(f"Memory ran out; going on from step {step} with {change}")
            print(f"Memory ran out ({failure[:200]}). Going on from step {step} with {change}.", flush=True)

    def _attempt(self) -> str | None:
        """One training from the newest checkpoint to the end. Returns the message if memory ran out."""
        import torch

        try:
            self._one_training()
        except torch.OutOfMemoryError as error:
            return str(error) or "the GPU's memory ran out"
        except RuntimeError as error:
            # The CPU allocator has no class of its own for it.
            if "can't allocate memory" not in str(error):
                raise
            return str(error)
        return None

    def _one_training(self) -> None:
        import torch

        self.work.check_cancelled()
        self.work.progress("Loading the base model")
        torch.set_num_threads(usable_cores())
        self._cap_memory()
        loaded = self.load(self.folder, self.recipe)
        self.device, self.device_name, self.dtype = loaded.device, loaded.device_name, loaded.dtype
        print(
            f"{self.base_model} on {loaded.device_name} in {loaded.dtype}, {torch.get_num_threads()} threads. "
            f"{loaded.dtype_reason}",
            flush=True,
        )
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
            checkpoints=self.root,
            callback=self.watch,
        )
        self.watch.trainer = self.trainer
        self._inject_out_of_memory()
        if self.watch.before is None:
            self.work.check_cancelled()
            self.work.progress(f"Measuring the held-out loss of the base on {len(self.measured)} rows")
            # The adapter's B matrices are zero: this is the base's own loss.
            self.watch.measured_before(self.trainer.heldout_loss())
            self.startup_s = time.monotonic() - self.began
        self.trainer.train(resume_from_checkpoint=str(resume) if resume else None)

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
        watch = self.watch
        assert watch.before is not None
        assert watch.last is not None
        assert watch.best is not None
        self.work.progress("Keeping the best adapter")
        after, kept_step = watch.last, watch.last_step
        if watch.best_step not in (0, watch.last_step):
            self._load_adapter(checkpoints.folder_of(self.root, watch.best_step))
            after, kept_step = watch.best, watch.best_step
        speed = watch.trained_tokens / max(watch.trained_s, 1e-9)
        peak_gpu, peak_ram = self._peak_gpu(), peak_ram_gib()
        predicted = (self.plan.get("memory") or {}).get("predicted_peak_gib")
        losses = [loss for _, loss in sorted(watch.losses.items())]
        tail = losses[-max(1, len(losses) // 10) :]
        result = TrainResult(
            model_id="",
            steps=watch.last_step,
            train_loss=sum(tail) / len(tail),
            eval_loss=EvalLoss(before=watch.before, after=after, best=min(watch.best, after)),
            perplexity=Perplexity(before=_perplexity(watch.before), after=_perplexity(after)),
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
                self.recipe.model_dump(),
            ),
            rows=self.rows,
            eval_rows_measured=len(self.measured),
            best_step=kept_step,
            stopped_early=watch.stopped_early,
            engine=self.recipe.engine,
            engine_fallback=self.fallback,
            device=self.device,
            dtype=self.dtype,
        )
        model_id = keep_model(
            self.work,
            self.trainer.model,
            base=self.folder,
            prompt_format=self.prompt_format,
            recipe=self.recipe,
            result=result,
        )
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
    return Training(work).run()


def usable_cores() -> int:
    """Physical cores this process may use: a second thread on a core only slows matrix products down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of handing it back to the kernel at once.

    A training step on a CPU frees and takes the same hundreds of MiB again and again; mapping and clearing those
    pages anew cost a quarter of the time of a step (measured: 343 against 443 tokens/s).
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def peak_ram_gib() -> float:
    """Peak resident memory of this process, GiB."""
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / GIB, 3)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (GIB if sys.platform == "darwin" else 2**20), 3)


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


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.removeprefix(checkpoints.PREFIX)) if checkpoint else 0


def _perplexity(loss: float) -> float:
    return round(math.exp(min(loss, 80.0)), 4)


if __name__ == "__main__":
    run_worker({"train": train})
