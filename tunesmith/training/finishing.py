"""The end of a training: the best model is kept, what was measured is written down, what has served is removed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunesmith import checkpoints
from tunesmith.models.bases import base_config
from tunesmith.runs.supervisor import Supervisor
from tunesmith.training import facts, history, reclaiming
from tunesmith.training.diagnosis import diagnose
from tunesmith.training.keeping import keep_model, load_trained
from tunesmith.training.measuring import measure_control, perplexity, read_metrics, rewards_at
from tunesmith.training.memory import Shape
from tunesmith.training.process import GIB, peak_ram_gib
from tunesmith.training.records import EvalLoss, Perplexity, ResumedFrom, TrainResult

if TYPE_CHECKING:
    from tunesmith.training.loop import Loop


def finish(loop: Loop, *, predicted_peak_gib: float | None, fallback: str | None, began: float) -> TrainResult:
    """Register the model and say what the run did.

    Args:
        loop: its training is done.
        predicted_peak_gib: by the plan; None when there was none.
        fallback: why the planned engine was not used.
        began: `time.monotonic()` of the worker's start.
    """
    work, material, recipe, watch, start = loop.work, loop.material, loop.recipe, loop.watch, loop.start
    looks = watch.looks
    assert looks.before is not None
    assert looks.last is not None
    assert looks.best is not None
    work.progress("Keeping the best model")
    after, kept_step = looks.last, looks.last_step
    if looks.best_step not in (0, looks.last_step):
        load_trained(loop.trainer.model, checkpoints.folder_of(loop.root, looks.best_step))
        after, kept_step = looks.best, looks.best_step
    counted = measure_control(loop.trainer, material.held_out, loop.facts, seed=recipe.seed, when="after")
    facts.write(work.run_dir, counted)
    speed = watch.trained_tokens / max(watch.trained_s, 1e-9)
    peak_gpu, peak_ram = _peak_gpu(loop.device), peak_ram_gib()
    losses = [loss for _, loss in sorted(looks.losses.items())]
    tail = losses[-max(1, len(losses) // 10) :]
    metrics = read_metrics(work.run_dir)
    result = TrainResult(
        model_id="",
        steps=watch.last_logged,
        train_loss=sum(tail) / len(tail),
        eval_loss=EvalLoss(before=looks.before, after=after, best=min(looks.best, after)),
        perplexity=Perplexity(before=perplexity(looks.before), after=perplexity(after))
        if material.objective == "sft"
        else None,
        objective=material.objective,
        rewards=rewards_at(metrics, kept_step) if material.objective == "dpo" else None,
        peak_gpu_gib=peak_gpu,
        peak_ram_gib=peak_ram,
        predicted_peak_gib=predicted_peak_gib,
        tokens_per_s=round(speed, 1),
        duration_s=0.0,
        recoveries=loop.recoveries,
        diagnosis=diagnose(
            metrics,
            {"recoveries": [step.model_dump() for step in loop.recoveries]},
            None,
            work.args["recipe"],  # as it was begun: what the recoveries changed is counted from there
            counted,
        ),
        rows=material.rows,
        eval_rows_measured=len(loop.measured),
        best_step=kept_step,
        stopped_early=looks.stopped_early,
        engine=recipe.engine,
        engine_fallback=fallback,
        device=loop.device,
        dtype=loop.dtype,
        resumed_from=ResumedFrom(run_id=start.run_id, step=start.saved.step) if start else None,
        checkpoints_set_aside=start.set_aside if start else [],
    )
    model_id = keep_model(
        work,
        loop.trainer.model,
        base=material.base,
        prompt_format=material.prompt_format,
        recipe=recipe,
        result=result,
    )
    if watch.trained_tokens:  # a run that only had to be finished measured nothing
        history.record(
            work.workspace,
            history.Measured(
                run_id=work.run_id,
                base_model=material.base_model,
                engine=recipe.engine,
                device=loop.device,
                device_name=loop.device_name,
                method=history.method_of(recipe.method, material.objective),
                packing=recipe.packing,
                tokens_per_s=round(speed / (recipe.processes if loop.device == "cuda" else 1), 1),  # of one card
                predicted_peak_gib=None if loop.recoveries else predicted_peak_gib,
                peak_gib=peak_gpu if peak_gpu is not None else peak_ram,
                startup_s=round(loop.startup_s, 1),
                parameters=Shape.from_config(base_config(work.workspace, material.base_model)).parameters,
            ),
        )
    # Enough to go on with more epochs; the checkpoints of the runs this one continues have served.
    checkpoints.prune(loop.root, keep=1, protect=[looks.best_step])
    reclaiming.drop_ancestors(Supervisor(work.workspace), work.run_id)
    return result.model_copy(update={"model_id": model_id, "duration_s": round(time.monotonic() - began, 1)})


def _peak_gpu(device: str) -> float | None:
    if device != "cuda":
        return None
    import torch

    return round(torch.cuda.max_memory_reserved() / GIB, 3)
