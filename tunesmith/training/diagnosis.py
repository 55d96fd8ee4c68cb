"""What the numbers of a run say, and the one change to try next.

Pure: it reads the lines of `metrics.jsonl`, the result or error of the run and
its recipe. Losses are nats per token. Every threshold is a constant here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import Any

from tunesmith.training.records import Advice, Diagnosis, Symptom, SymptomCode

ENOUGH_STEPS = 8  # fewer say nothing about a trend
NOT_LEARNING_DROP = 0.03  # relative fall of the training loss below which nothing was learned
OVERFIT_RISE = 0.05  # relative rise of the held-out loss above its best
MEMORISED_LOSS = 0.1  # the training loss at which answers are known by heart
DIVERGED_RISE = 1.5  # times its lowest, and above where it began
OSCILLATION = 0.35  # spread of the steps around their moving mean, relative
PLATEAU_DROP = 0.01
PLATEAU_STEPS = 30
IMPLAUSIBLE_LOSS = 7.0  # worse than guessing among a thousand tokens: another template or a broken encoding
KNOWN_LOSS = 0.3  # a held-out loss this low before training: the answers were seen already
SPIKE = 3  # times the median of the steps around it
LEAK_RATIO = 0.6  # held-out far below training: the held-out rows are easier or leaked

_SERIOUS: tuple[SymptomCode, ...] = ("out_of_memory", "diverged", "not_learning")


@dataclass(frozen=True)
class _Curves:
    """The numbers of a run, in order of steps."""

    losses: list[float]
    smooth: list[float]
    evals: list[tuple[int, float]]
    broken: list[int]  # steps whose loss or gradient is not a finite number


def diagnose(
    metrics: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any] | None,
    error: Mapping[str, Any] | None,
    recipe: Mapping[str, Any],
) -> Diagnosis:
    """Name what the run shows, with the numbers, and advise one change.

    Args:
        metrics: lines of `metrics.jsonl`: step, loss, eval_loss, grad_norm, learning_rate …; null where absent.
        result: the run's result, if it has one.
        error: the run's error, if it has one.
        recipe: the resolved recipe it ran with.
    """
    curves = _read(metrics)
    found = [
        symptom
        for symptom in (
            _out_of_memory(result, error, recipe),
            _diverged(curves, recipe),
            _data_suspect(curves),
            _not_learning(curves, recipe),
            _overfitting(curves, recipe),
            _memorising(curves, recipe),
            _oscillating(curves, recipe),
            _plateau(curves, recipe),
        )
        if symptom is not None
    ]
    if not found:
        return _nothing_found(curves, error)
    worst = found[0].code
    return Diagnosis(
        health="unhealthy" if worst in _SERIOUS and not (worst == "out_of_memory" and result) else "attention",
        summary=found[0].evidence,
        symptoms=found,
        suggested_recipe=_one_change(worst, recipe),
    )


def _nothing_found(curves: _Curves, error: Mapping[str, Any] | None) -> Diagnosis:
    if len(curves.losses) < ENOUGH_STEPS:
        why = f" It ended with {error.get('code')}: {error.get('message')}" if error else ""
        return Diagnosis(
            health="unhealthy" if error else "unknown",
            summary=f"Only {len(curves.losses)} steps were measured, too few to judge.{why}",
            symptoms=[],
            suggested_recipe={},
        )
    evidence = f"Training loss {curves.smooth[0]:.2f} → {curves.smooth[-1]:.2f}"
    if len(curves.evals) > 1:
        evidence += f", held-out loss {curves.evals[0][1]:.2f} → {curves.evals[-1][1]:.2f}"
    return Diagnosis(
        health="healthy" if not error else "attention",
        summary=evidence + ".",
        symptoms=[Symptom(code="healthy", evidence=evidence + ".", advice=[])],
        suggested_recipe={},
    )


def _read(metrics: Sequence[Mapping[str, Any]]) -> _Curves:
    # By step: a run that went back to a checkpoint measured some steps twice, and the later line counts.
    losses: dict[int, float] = {}
    evals: dict[int, float] = {}
    broken: list[int] = []
    for line in metrics:
        step = line.get("step")
        if not isinstance(step, int):
            continue
        broken.extend(step for name in ("loss", "grad_norm") if _is_broken(line.get(name)))
        loss, held_out = line.get("loss"), line.get("eval_loss")
        if isinstance(loss, int | float) and math.isfinite(loss):
            losses[step] = float(loss)
        if isinstance(held_out, int | float) and math.isfinite(held_out):
            evals[step] = float(held_out)
    in_order = [losses[step] for step in sorted(losses)]
    return _Curves(in_order, _moving_mean(in_order), sorted(evals.items()), broken)


def _is_broken(value: Any) -> bool:
    """Not a finite number: as a number, or as the word that JSON needs for it."""
    if isinstance(value, str):
        return value in ("nan", "inf", "-inf")
    return isinstance(value, float) and not math.isfinite(value)


def _moving_mean(values: Sequence[float]) -> list[float]:
    window = max(3, len(values) // 10)
    half = window // 2
    return [fmean(values[max(0, place - half) : place + half + 1]) for place in range(len(values))]


def _out_of_memory(
    result: Mapping[str, Any] | None, error: Mapping[str, Any] | None, recipe: Mapping[str, Any]
) -> Symptom | None:
    recoveries = (result or {}).get("recoveries") or []
    code = (error or {}).get("code")
    if not recoveries and code not in ("out_of_memory", "killed_by_system"):
        return None
    evidence = (
        "Memory ran out and the run went on with less: " + "; ".join(str(step["change"]) for step in recoveries) + "."
        if recoveries
        else f"The run ended with {code}: {(error or {}).get('message', '')}"
    )
    return Symptom(
        code="out_of_memory",
        evidence=evidence,
        advice=[
            Advice(
                change=f"batch_size {recipe.get('batch_size')} → {max(1, int(recipe.get('batch_size', 2)) // 2)}, "
                "gradient_accumulation doubled",
                why="Activations shrink with the micro-batch; the effective batch, and so the result, stays.",
            ),
            Advice(
                change="gradient_checkpointing on",
                why="Activations are recomputed instead of kept, at a third more time.",
            ),
        ],
    )


def _diverged(curves: _Curves, recipe: Mapping[str, Any]) -> Symptom | None:
    rate = recipe.get("learning_rate")
    if curves.broken:
        evidence = f"The loss or the gradient was not a finite number at step {curves.broken[0]}."
    elif (
        len(curves.smooth) >= ENOUGH_STEPS
        and curves.smooth[-1] > DIVERGED_RISE * min(curves.smooth)
        and curves.smooth[-1] > curves.smooth[0]
    ):
        evidence = f"Training loss fell to {min(curves.smooth):.2f} and rose to {curves.smooth[-1]:.2f}."
    else:
        return None
    return Symptom(
        code="diverged",
        evidence=evidence,
        advice=[
            Advice(
                change=f"learning_rate {rate} → a third", why="Steps that are too long leave the valley they are in."
            )
        ],
    )


def _not_learning(curves: _Curves, recipe: Mapping[str, Any]) -> Symptom | None:
    if len(curves.smooth) < ENOUGH_STEPS:
        return None
    first, last = curves.smooth[0], curves.smooth[-1]
    fell = (first - last) / first if first > 0 else 0.0
    evals_fell = len(curves.evals) > 1 and curves.evals[-1][1] < curves.evals[0][1] * (1 - NOT_LEARNING_DROP)
    if fell >= NOT_LEARNING_DROP or evals_fell or last > DIVERGED_RISE * min(curves.smooth):
        return None
    return Symptom(
        code="not_learning",
        evidence=f"Training loss {first:.3f} → {last:.3f}, a fall of {fell:.1%} in {len(curves.losses)} steps.",
        advice=[
            Advice(
                change=f"learning_rate {recipe.get('learning_rate')} → three times that",
                why="The adapter has hardly moved; for LoRA, 1e-4 to 1e-3 is usual.",
            ),
            Advice(
                change="Look at rendered rows with preview_dataset", why="A wrong loss mask or template also looks so."
            ),
        ],
    )


def _overfitting(curves: _Curves, recipe: Mapping[str, Any]) -> Symptom | None:
    if len(curves.evals) < 3 or len(curves.smooth) < ENOUGH_STEPS:
        return None
    best_step, best = min(curves.evals, key=lambda point: point[1])
    last = curves.evals[-1][1]
    if last <= best * (1 + OVERFIT_RISE) or curves.smooth[-1] >= curves.smooth[len(curves.smooth) // 2]:
        return None
    return Symptom(
        code="overfitting",
        evidence=f"Held-out loss was best at step {best_step} ({best:.3f}) and rose to {last:.3f}, "
        f"while the training loss fell to {curves.smooth[-1]:.3f}.",
        advice=[
            Advice(
                change=f"epochs {recipe.get('epochs')} → about half", why="It learned all it could by the best step."
            ),
            Advice(change="Add examples", why="More rows are the only lasting remedy."),
        ],
    )


def _memorising(curves: _Curves, recipe: Mapping[str, Any]) -> Symptom | None:
    if len(curves.smooth) < ENOUGH_STEPS or curves.smooth[-1] >= MEMORISED_LOSS:
        return None
    return Symptom(
        code="memorising",
        evidence=f"Training loss is {curves.smooth[-1]:.3f}: below {MEMORISED_LOSS} the answers are known by heart.",
        advice=[
            Advice(change=f"epochs {recipe.get('epochs')} → about half", why="Fewer passes leave less to recite."),
            Advice(change="dropout 0.05 or a lower rank", why="Less capacity to store sentences word for word."),
        ],
    )


def _oscillating(curves: _Curves, recipe: Mapping[str, Any]) -> Symptom | None:
    if len(curves.losses) < 2 * ENOUGH_STEPS:
        return None
    spread = pstdev(loss - mean for loss, mean in zip(curves.losses, curves.smooth, strict=True)) / fmean(curves.smooth)
    if spread < OSCILLATION:
        return None
    return Symptom(
        code="oscillating",
        evidence=f"Steps scatter around their moving mean by {spread:.0%} of it.",
        advice=[
            Advice(
                change=f"gradient_accumulation {recipe.get('gradient_accumulation')} → twice that",
                why="A larger effective batch averages the noise away.",
            ),
            Advice(change=f"learning_rate {recipe.get('learning_rate')} → half", why="Shorter steps overshoot less."),
        ],
    )


def _plateau(curves: _Curves, recipe: Mapping[str, Any]) -> Symptom | None:
    if len(curves.smooth) < PLATEAU_STEPS:
        return None
    if len(curves.evals) > 1 and curves.evals[-1][1] < curves.evals[-2][1] * (1 - PLATEAU_DROP):
        return None  # single steps are noisy; the held-out loss, over all its rows, still falls
    # Not the end: there a cosine schedule stands still by design.
    count = len(curves.smooth)
    middle, late = curves.smooth[count // 2], curves.smooth[count * 4 // 5]
    if (middle - late) / middle >= PLATEAU_DROP or (curves.smooth[0] - middle) / curves.smooth[0] < NOT_LEARNING_DROP:
        return None
    return Symptom(
        code="plateau",
        evidence=f"Training loss {middle:.3f} halfway and {late:.3f} at four fifths: it stopped falling.",
        advice=[
            Advice(change=f"rank {recipe.get('rank')} → twice that", why="A wider adapter can store more."),
            Advice(change="Stop here", why="More steps of the same will not change much."),
        ],
    )


def _data_suspect(curves: _Curves) -> Symptom | None:
    evidence = ""
    if curves.evals and curves.evals[0][0] == 0:
        before = curves.evals[0][1]
        if before > IMPLAUSIBLE_LOSS:
            evidence = (
                f"Held-out loss before training is {before:.1f}: the text does not look like language to this model."
            )
        elif before < KNOWN_LOSS:
            evidence = f"Held-out loss before training is {before:.2f}: the model knows these answers already."
    if not evidence and len(curves.losses) >= ENOUGH_STEPS and curves.evals:
        last = curves.evals[-1][1]
        # The mean of the last steps, not the first: early on the training loss is above everything.
        if last < LEAK_RATIO * curves.smooth[-1]:
            evidence = f"Held-out loss {last:.2f} is far below the training loss {curves.smooth[-1]:.2f}."
    if not evidence and (spikes := _spikes(curves.losses)):
        evidence = f"{len(spikes)} steps have a loss over {SPIKE} times that of the steps around them."
    if not evidence:
        return None
    return Symptom(
        code="data_suspect",
        evidence=evidence,
        advice=[
            Advice(
                change="Run score_dataset and clean_dataset",
                why="Duplicates across the split, damage or residue show there.",
            ),
            Advice(change="Look at rendered rows with preview_dataset", why="It shows exactly what was trained on."),
        ],
    )


def _spikes(losses: Sequence[float]) -> list[float]:
    """Losses far above their neighbours', where there are at least two: rows that do not belong."""
    found = [
        loss
        for place, loss in enumerate(losses)
        if loss > SPIKE * median(losses[max(0, place - ENOUGH_STEPS) : place + ENOUGH_STEPS + 1])
    ]
    return found if len(losses) >= 2 * ENOUGH_STEPS and len(found) >= 2 else []


def _one_change(code: SymptomCode, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as options, with the first advice for the worst symptom applied."""
    options = {name: value for name, value in recipe.items() if value is not None}
    if not options:
        return {}
    match code:
        case "out_of_memory" if options["batch_size"] > 1:
            half = options["batch_size"] // 2
            options["gradient_accumulation"] = math.ceil(
                options["batch_size"] * options["gradient_accumulation"] / half
            )
            options["batch_size"] = half
        case "out_of_memory":
            options["gradient_checkpointing"] = "on"
        case "diverged":
            options["learning_rate"] = _rounded(options["learning_rate"] / 3)
        case "not_learning":
            options["learning_rate"] = min(1.0, _rounded(options["learning_rate"] * 3))
        case "overfitting" | "memorising":
            options["epochs"] = max(0.5, round(options["epochs"] / 2, 1))
        case "oscillating":
            options["gradient_accumulation"] = min(4096, options["gradient_accumulation"] * 2)
        case "plateau":
            options["rank"] = min(512, options["rank"] * 2)
        case _:
            return {}
    return options


def _rounded(rate: float) -> float:
    """Two significant digits: a learning rate is never known better."""
    return float(f"{rate:.1e}")
