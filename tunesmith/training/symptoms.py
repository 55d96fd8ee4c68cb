"""What a run's curves show: each function looks for one symptom. Pure; losses are nats per token.

The thresholds were chosen on the runs of seeds 1 to 3 of `benchmarks/training/sick_runs.py` and tested on its others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import Any

from tunesmith.training import changes
from tunesmith.training.changes import Change
from tunesmith.training.curves import Curves, window_of
from tunesmith.training.records import Advice, Symptom

ENOUGH_STEPS = 8  # fewer say nothing about a trend
NOT_LEARNING_DROP = 0.05  # relative fall of the loss below which nothing was learned
WARMING_UP_DROP = 0.15  # the same for a run that was mostly warm-up
OVERFIT_RISE = 0.05  # relative rise of the held-out loss above its best
STANDS_STILL = 0.05  # relative fall of the best held-out loss in the second half, below which it stands still
FAR_BELOW = 0.6  # the training loss in held-out losses, from which what is learned is the rows and not their rule
MEMORISED_LOSS = 0.1  # the training loss at which answers are known by heart
RECITED = 0.4  # the training loss in held-out losses, from which it is so whatever its height
DIVERGED_RISE = 1.5  # times its lowest, and above where it began
THROWN_OFF = 1.05  # the highest moving mean, in losses of the start
OSCILLATION = 0.35  # spread of the steps around their moving mean, relative
PLATEAU_DROP = 0.03  # relative fall over the second half of the run, below which it stands still
NARROW_PLATEAU_DROP = 0.08  # the same for an adapter that has little room, while much of the loss is left:
MUCH_LEFT = 0.7  # of the loss it began with
NARROW_RANK = 1
PLATEAU_STEPS = 30
FEW_STEPS = 20
CLIPPED = 1000.0  # times the clipping norm
LOW_RATE = 1e-4
LOW_RATE_WHOLE = 1e-5  # the same where every weight is trained


@dataclass(frozen=True)
class Finding:
    """A symptom, and the changes to the recipe that may help, best first."""

    symptom: Symptom
    changes: Iterator[Change]


def out_of_memory(
    result: Mapping[str, Any] | None, error: Mapping[str, Any] | None, recipe: Mapping[str, Any]
) -> Finding | None:
    """Memory ran out, and the run went on with less or ended."""
    found = (result or {}).get("recoveries")
    recoveries = [step for step in found if isinstance(step, Mapping)] if isinstance(found, list) else []
    code = (error or {}).get("code")
    if not recoveries and code not in ("out_of_memory", "killed_by_system"):
        return None
    evidence = (
        "Memory ran out and the run went on with less: "
        + "; ".join(str(step.get("change")) for step in recoveries[:10])
        + "."
        if recoveries
        else f"The run ended with {code}: {str((error or {}).get('message', ''))[:300]}"
    )
    batch, accumulation = recipe.get("batch_size"), recipe.get("gradient_accumulation")
    halvings = max(1, sum(str(step.get("change")).startswith("batch_size") for step in recoveries))
    words = "half" if halvings == 1 else f"halved {halvings} times, as the run did"
    smaller = Advice(
        change=f"batch_size {batch} → {words}, gradient_accumulation {accumulation} raised as much",
        why="Activations shrink with the micro-batch; the effective batch, and so the result, stays.",
    )
    recompute = Advice(
        change="gradient_checkpointing on", why="Activations are recomputed instead of kept, at a third more time."
    )
    advice = [smaller, recompute] if isinstance(batch, int) and batch > 1 else [recompute]
    return Finding(
        Symptom(code="out_of_memory", evidence=evidence, advice=advice), changes.less_memory(recipe, halvings)
    )


def diverged(curves: Curves, recipe: Mapping[str, Any]) -> Finding | None:
    """Steps too long: numbers that are none, or a loss above where it began."""
    now = recipe.get("learning_rate")
    smooth, factor, words = curves.smooth, 1 / 3, "a third"
    if curves.broken:
        evidence = f"The loss or the gradient was not a finite number at step {curves.broken[0]}."
    elif len(smooth) < ENOUGH_STEPS:
        return None
    elif smooth[-1] > DIVERGED_RISE * min(smooth) and smooth[-1] > smooth[0]:
        evidence = f"Training loss fell to {min(smooth):.2f} and rose to {smooth[-1]:.2f}."
    elif (peak := max(smooth)) > max(THROWN_OFF * _start(curves), _start(curves) + 3 * _noise(curves)):
        factor, words = 1 / 10, "a tenth"
        at = smooth.index(peak) + 1
        evidence = (
            f"Training loss began at {_start(curves):.2f}, rose to {peak:.2f} around step {at} and ended at "
            f"{smooth[-1]:.2f}: the first long steps threw the model off."
        )
    else:
        return None
    advice = Advice(
        change=f"learning_rate {now} → {words}", why="Steps that are too long leave the valley they are in."
    )
    return Finding(Symptom(code="diverged", evidence=evidence, advice=[advice]), changes.rate(recipe, factor))


def not_learning(curves: Curves, recipe: Mapping[str, Any], *, ended: bool) -> Finding | None:
    """The loss hardly fell. What to change depends on why: clipping, too few steps, a long warm-up, or the rate.

    Args:
        ended: whether the run is over; one that goes on is not judged while it has hardly begun.
    """
    steps, smooth = len(curves.losses), curves.smooth
    if not ended and (steps < FEW_STEPS or _mostly_warming_up(recipe, steps)):
        return None
    start, best = curves.before, curves.best
    if start is not None and best is not None and len(curves.held_out) > 1:
        kind, last = "Held-out", best[1]  # over the same rows each time: free of the noise of single steps
    elif steps >= ENOUGH_STEPS:
        kind, start, last = "Training", smooth[0], smooth[-1]
    else:
        return None
    fell = _fall(start, last)
    enough = NOT_LEARNING_DROP if not _mostly_warming_up(recipe, steps) else WARMING_UP_DROP
    if fell >= enough or start < MEMORISED_LOSS:
        return None
    advice, tried = _why_not_learning(curves, recipe)
    evidence = f"{kind} loss {start:.3f} → {last:.3f}, a fall of {fell:.1%} in {steps} steps."
    return Finding(Symptom(code="not_learning", evidence=evidence, advice=advice), tried)


def _why_not_learning(curves: Curves, recipe: Mapping[str, Any]) -> tuple[list[Advice], Iterator[Change]]:
    steps, now, limit = len(curves.losses), recipe.get("learning_rate"), recipe.get("max_grad_norm")
    look = Advice(
        change="Look at rendered rows with preview_dataset", why="A wrong loss mask or template also looks so."
    )
    if isinstance(limit, int | float) and limit > 0 and curves.norms and median(curves.norms) > CLIPPED * limit:
        return [
            Advice(
                change=f"max_grad_norm {limit} → 0.3",
                why=f"Gradients of norm {median(curves.norms):.2g} are clipped to {limit:.1g}: nothing is left.",
            ),
            look,
        ], iter([{"max_grad_norm": 0.3}])
    warmup = recipe.get("warmup_steps")
    if _mostly_warming_up(recipe, steps):
        return [
            Advice(
                change=f"warmup_steps {warmup} → {steps // 10}",
                why=f"Of {steps} steps the rate needed {warmup} to reach its peak.",
            ),
            Advice(change="More epochs", why=f"{steps} steps are few in any case."),
        ], iter([{"warmup_steps": steps // 10}])
    if steps < FEW_STEPS:
        return [
            Advice(
                change=f"More steps than {steps}: epochs {recipe.get('epochs')}, max_steps {recipe.get('max_steps')}",
                why="Some fifty steps are the least that tells; "
                + ("at such a rate whole weights move slowly." if _whole(recipe) else "the adapter begins at zero."),
            ),
            look,
        ], changes.longer(recipe, steps)
    factor, words = (
        (10, "ten times that")
        if isinstance(now, int | float) and now < (LOW_RATE_WHOLE if _whole(recipe) else LOW_RATE)
        else (3, "three times that")
    )
    return [
        Advice(
            change=f"learning_rate {now} → {words}",
            why="The weights have hardly moved; where all are trained, 1e-5 to 5e-5 is usual."
            if _whole(recipe)
            else "The adapter has hardly moved; for LoRA, 1e-4 to 1e-3 is usual.",
        ),
        look,
    ], changes.rate(recipe, factor)


def overfitting(curves: Curves, recipe: Mapping[str, Any]) -> Finding | None:
    """The training loss falls, the held-out loss rises, or stands still far above it."""
    looks, smooth = curves.held_out, curves.smooth
    if len(looks) < 3 or len(smooth) < ENOUGH_STEPS or curves.best is None:
        return None
    (best_step, best), last = curves.best, looks[-1][1]
    middle = smooth[len(smooth) // 2]
    falling = smooth[-1] < middle
    if last > best * (1 + OVERFIT_RISE) and falling and smooth[-1] < last:
        evidence = (
            f"Held-out loss was best at step {best_step} ({best:.3f}) and rose to {last:.3f}, "
            f"while the training loss fell to {smooth[-1]:.3f}."
        )
    elif (
        falling
        and _fall(_best_by_half(looks), best) < STANDS_STILL
        and smooth[-1] < FAR_BELOW * last
        and _fall(middle, smooth[-1]) > 2 * STANDS_STILL
    ):
        evidence = (
            f"In the second half of the run the held-out loss stood still ({_best_by_half(looks):.3f} → {last:.3f}), "
            f"while the training loss fell on, from {middle:.3f} to {smooth[-1]:.3f}."
        )
    else:
        return None
    advice = [
        Advice(change=f"epochs {recipe.get('epochs')} → about half", why="It learned all it could by the best step."),
        Advice(change="Add examples", why="More rows are the only lasting remedy."),
    ]
    return Finding(
        Symptom(code="overfitting", evidence=evidence, advice=advice), changes.shorter(recipe, len(curves.losses))
    )


def memorising(curves: Curves, recipe: Mapping[str, Any]) -> Finding | None:
    """A training loss near zero or far below the held-out loss, and not because the task is easy."""
    if len(curves.smooth) < ENOUGH_STEPS:
        return None
    last = curves.smooth[-1]
    if len(curves.held_out) > 1:
        held_out = curves.held_out[-1][1]
        if held_out < MEMORISED_LOSS or last > RECITED * held_out:
            return None
        evidence = (
            f"Training loss is {last:.3f}, held-out loss {held_out:.3f}: the rows are known by heart, "
            "what they have in common is not."
        )
    elif last < MEMORISED_LOSS:
        evidence = f"Training loss is {last:.3f}: below {MEMORISED_LOSS} the answers are known by heart."
    else:
        return None
    advice = [
        Advice(change=f"epochs {recipe.get('epochs')} → about half", why="Fewer passes leave less to recite."),
        Advice(
            change='method "lora"' if _whole(recipe) else "dropout 0.05 or a lower rank",
            why="Less capacity to store sentences word for word.",
        ),
    ]
    return Finding(
        Symptom(
            code="memorising",
            evidence=evidence,
            advice=advice,
        ),
        changes.shorter(recipe, len(curves.losses)),
    )


def oscillating(curves: Curves, recipe: Mapping[str, Any]) -> Finding | None:
    """Steps scatter widely around their moving mean."""
    if len(curves.losses) < 2 * ENOUGH_STEPS or (mean := fmean(curves.smooth)) <= 0:
        return None
    spread = pstdev(loss - near for loss, near in zip(curves.losses, curves.smooth, strict=True)) / mean
    if spread < OSCILLATION:
        return None
    advice = [
        Advice(
            change=f"gradient_accumulation {recipe.get('gradient_accumulation')} → twice that",
            why="A larger effective batch averages the noise away.",
        ),
        Advice(change=f"learning_rate {recipe.get('learning_rate')} → half", why="Shorter steps overshoot less."),
    ]
    return Finding(
        Symptom(
            code="oscillating",
            evidence=f"Steps scatter around their moving mean by {spread:.0%} of it.",
            advice=advice,
        ),
        changes.larger_batch(recipe),
    )


def plateau(curves: Curves, recipe: Mapping[str, Any]) -> Finding | None:
    """It fell, and then stopped falling long before the end."""
    smooth, looks, best = curves.smooth, curves.held_out, curves.best
    if len(smooth) < PLATEAU_STEPS:
        return None
    narrow = _is_narrow(recipe) and (curves.best or (0, smooth[-1]))[1] > MUCH_LEFT * _start(curves)
    enough = NARROW_PLATEAU_DROP if narrow else PLATEAU_DROP
    if len(looks) > 3 and best is not None:
        # Over all its rows, the held-out loss is free of the noise of single steps.
        kind, first, middle, last = "Held-out", looks[0][1], _best_by_half(looks), best[1]
    else:
        # Not the end: there a cosine schedule stands still by design.
        count = len(smooth)
        kind, first, middle, last = "Training", smooth[0], smooth[count // 2], smooth[count * 4 // 5]
        if len(looks) > 1 and _fall(looks[-2][1], looks[-1][1]) >= enough:
            return None
    if _fall(middle, last) >= enough or _fall(first, middle) < NOT_LEARNING_DROP:
        return None
    wider = Advice(change=f"rank {recipe.get('rank')} → twice that", why="A wider adapter can store more.")
    if _whole(recipe):
        wider = Advice(change="A larger base_model", why="Every weight is trained already.")
    if narrow:
        wider = Advice(change="Leave target_modules and rank out", why="An adapter on all linear layers learns most.")
    advice = [wider, Advice(change="Stop here", why="More steps of the same will not change much.")]
    evidence = f"{kind} loss {first:.3f}, halfway {middle:.3f}, in the end {last:.3f}: it stopped falling."
    return Finding(Symptom(code="plateau", evidence=evidence, advice=advice), changes.wider(recipe))


def _whole(recipe: Mapping[str, Any]) -> bool:
    """Whether every weight is trained, without an adapter."""
    return recipe.get("method") == "full"


def _is_narrow(recipe: Mapping[str, Any]) -> bool:
    """Whether the adapter is so small that what it cannot learn is its own limit."""
    rank, modules = recipe.get("rank"), recipe.get("target_modules")
    return (isinstance(rank, int) and rank <= NARROW_RANK) or (isinstance(modules, list) and len(modules) == 1)


def _mostly_warming_up(recipe: Mapping[str, Any], steps: int) -> bool:
    warmup = recipe.get("warmup_steps")
    return isinstance(warmup, int) and recipe.get("scheduler") != "constant" and 0 < steps < 2 * warmup


def _start(curves: Curves) -> float:
    """The loss before the first update, which the first step's is too; the larger, since one batch may be easy."""
    before = curves.before
    return max(curves.losses[:3]) if before is None else max(curves.losses[0], before)


def _noise(curves: Curves) -> float:
    """Standard error of the moving mean, from the median distance of a step from it: outliers count for little."""
    apart = median(abs(loss - near) for loss, near in zip(curves.losses, curves.smooth, strict=True))
    return 1.48 * apart / math.sqrt(window_of(len(curves.losses)))


def _fall(start: float, end: float) -> float:
    """Relative; 0 where there was nothing to fall."""
    return (start - end) / start if start > 0 else 0.0


def _best_by_half(looks: list[tuple[int, float]]) -> float:
    """The best held-out loss up to half of the last look's step; the first where there is none so early."""
    half = looks[-1][0] / 2
    return min((loss for step, loss in looks if step <= half), default=looks[0][1])
