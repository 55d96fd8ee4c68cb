"""What the curves of preference training show. Its loss is no loss of text: it begins at ln 2, where the model prefers
as the base does, and falls as the chosen answers gain on the rejected ones.

Judged are memory, divergence, whether anything was learned, and overfitting. Not judged, since nothing was measured
that would tell: memorising, oscillating, plateau and the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.training import changes
from tunesmith.training.curves import Curves
from tunesmith.training.records import Advice, Symptom
from tunesmith.training.symptoms import ENOUGH_STEPS, OVERFIT_RISE, Finding

LN2 = math.log(2)
WORSE = 1.1  # times ln 2: on the whole the rejected answers gained
LEARNED = 0.01  # of ln 2: a smaller fall of the held-out loss is none
GUESSING = 0.6  # share of pairs put right, below which it may be chance
NOT_JUDGED = "Of preference runs memorising, oscillating, plateau and the data are not judged."


def findings(curves: Curves, recipe: Mapping[str, Any], rewards: Mapping[str, float], *, ended: bool) -> list[Finding]:
    """The symptoms beside memory, worst first.

    Args:
        rewards: `reward_accuracy` and `reward_margin` of the last look; empty where there was none.
        ended: whether the run is over.
    """
    found = _diverged(curves, recipe)
    if found is not None:
        return [found]
    cases = (_not_learning(curves, recipe, rewards, ended=ended), _overfitting(curves, recipe))
    return [case for case in cases if case is not None]


def last_rewards(metrics: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of the last look at the held-out pairs."""
    found: dict[str, float] = {}
    for line in metrics:
        values = {name: line.get(name) for name in ("reward_accuracy", "reward_margin")}
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        if line.get("eval_loss") is not None and len(numbers) == len(values):
            found = numbers
    return found


def evidence(curves: Curves, rewards: Mapping[str, float]) -> str:
    """The most telling numbers, in one sentence."""
    looks = curves.held_out
    words = f"DPO loss of held-out pairs {looks[0][1]:.3f} → {looks[-1][1]:.3f}" if looks else "No look yet"
    if rewards:
        words += (
            f"; the chosen answer gained more in {rewards['reward_accuracy']:.0%} of them, by "
            f"{rewards['reward_margin']:.2f} on average"
        )
    return words + "."


def _diverged(curves: Curves, recipe: Mapping[str, Any]) -> Finding | None:
    looks = curves.held_out
    if curves.broken:
        said = f"The loss or the gradient was not a finite number at step {curves.broken[0]}."
    elif len(looks) > 1 and looks[-1][1] > WORSE * LN2 and len(curves.smooth) >= ENOUGH_STEPS:
        said = (
            f"The held-out DPO loss ended at {looks[-1][1]:.3f}, above the {LN2:.3f} of the base: what was pushed "
            "apart on the training rows is the wrong way round elsewhere."
        )
    else:
        return None
    now = recipe.get("learning_rate")
    advice = Advice(change=f"learning_rate {now} → a third", why="Long steps push both answers out of what is likely.")
    return Finding(Symptom(code="diverged", evidence=said, advice=[advice]), changes.rate(recipe, 1 / 3))


def _not_learning(
    curves: Curves, recipe: Mapping[str, Any], rewards: Mapping[str, float], *, ended: bool
) -> Finding | None:
    best = curves.best
    if not ended or best is None or len(curves.held_out) < 2 or best[1] < (1 - LEARNED) * LN2:
        return None
    if rewards.get("reward_accuracy", 0.0) >= GUESSING:
        return None
    now, steps = recipe.get("learning_rate"), len(curves.losses)
    advice = [
        Advice(change=f"learning_rate {now} → three times that", why="The answers have hardly moved apart."),
        Advice(
            change="Look at the pairs with preview_dataset",
            why="Where chosen and rejected differ by nothing that can be learned, nothing is.",
        ),
    ]
    said = f"{evidence(curves, rewards)} In {steps} steps it hardly left the {LN2:.3f} it began with."
    return Finding(Symptom(code="not_learning", evidence=said, advice=advice), changes.rate(recipe, 3))


def _overfitting(curves: Curves, recipe: Mapping[str, Any]) -> Finding | None:
    looks, smooth, best = curves.held_out, curves.smooth, curves.best
    if len(looks) < 3 or len(smooth) < ENOUGH_STEPS or best is None:
        return None
    last = looks[-1][1]
    if last <= best[1] * (1 + OVERFIT_RISE) or smooth[-1] >= smooth[len(smooth) // 2] or smooth[-1] >= last:
        return None
    advice = [
        Advice(change=f"epochs {recipe.get('epochs')} → about half", why="It preferred best at the best step."),
        Advice(change="Add pairs", why="More rows are the only lasting remedy."),
    ]
    said = (
        f"The held-out DPO loss was best at step {best[0]} ({best[1]:.3f}) and rose to {last:.3f}, while that of the "
        f"training pairs fell to {smooth[-1]:.3f}."
    )
    return Finding(
        Symptom(code="overfitting", evidence=said, advice=advice), changes.shorter(recipe, len(curves.losses))
    )
