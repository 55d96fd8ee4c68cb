"""What a run shows, and the one change to try next.

Pure: it reads the lines of `metrics.jsonl`, the result or error of the run, its recipe and the facts of its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.training import preference_symptoms, symptoms
from tunesmith.training.changes import first_usable
from tunesmith.training.curves import Curves, read
from tunesmith.training.fact_records import Facts
from tunesmith.training.records import Advice, Diagnosis, Symptom, SymptomCode
from tunesmith.training.suspicion import suspicion
from tunesmith.training.symptoms import ENOUGH_STEPS, Finding

IMPLAUSIBLE_LOSS = 7.0  # worse than guessing among a thousand tokens: another template or a broken encoding
STILL_IMPLAUSIBLE = 0.5  # of that loss is left: short or odd answers are learned within some steps
KNOWN_LOSS = 0.3  # a held-out loss this low before training: the answers were seen already
LEAK_RATIO = 0.6  # held-out far below training: the held-out rows are easier or leaked

_SERIOUS: tuple[SymptomCode, ...] = ("out_of_memory", "diverged", "not_learning")


def diagnose(
    metrics: Iterable[Mapping[str, Any]],
    result: Mapping[str, Any] | None,
    error: Mapping[str, Any] | None,
    recipe: Mapping[str, Any],
    facts: Facts | None = None,
) -> Diagnosis:
    """Name what the run shows, with the numbers, and advise one change.

    Args:
        metrics: lines of `metrics.jsonl`: step, loss, eval_loss, grad_norm, learning_rate …; null where absent.
        result: the run's result, if it has one.
        error: the run's error, if it has one.
        recipe: the resolved recipe it ran with.
        facts: what the worker knew of the rows; None where it left nothing.
    """
    lines = list(metrics)
    curves = read(lines)
    if facts is not None and facts.objective == "dpo":
        return _of_preference(curves, preference_symptoms.last_rewards(lines), result, error, recipe)
    found = [
        finding
        for finding in (
            symptoms.out_of_memory(result, error, recipe),
            symptoms.diverged(curves, recipe),
            _data_suspect(curves, facts),
            symptoms.not_learning(curves, recipe, ended=bool(result or error)),
            symptoms.overfitting(curves, recipe),
            symptoms.memorising(curves, recipe),
            symptoms.oscillating(curves, recipe),
            symptoms.plateau(curves, recipe),
        )
        if finding is not None
    ]
    if not found:
        return _nothing_found(curves, error)
    return _diagnosis(found, result, error, recipe)


def _of_preference(
    curves: Curves,
    rewards: Mapping[str, float],
    result: Mapping[str, Any] | None,
    error: Mapping[str, Any] | None,
    recipe: Mapping[str, Any],
) -> Diagnosis:
    memory = symptoms.out_of_memory(result, error, recipe)
    found = preference_symptoms.findings(curves, recipe, rewards, ended=bool(result or error))
    if memory is not None or found:
        told = _diagnosis([*([memory] if memory else []), *found], result, error, recipe)
    else:
        told = _nothing_found(curves, error, preference_symptoms.evidence(curves, rewards))
    return told.model_copy(update={"summary": f"{told.summary} {preference_symptoms.NOT_JUDGED}"})


def _diagnosis(
    found: list[Finding],
    result: Mapping[str, Any] | None,
    error: Mapping[str, Any] | None,
    recipe: Mapping[str, Any],
) -> Diagnosis:
    """What was found, worst first, as it is told."""
    if any(
        finding.symptom.code == "diverged" for finding in found
    ):  # what the curves show besides only follows from it
        found = [finding for finding in found if finding.symptom.code in ("out_of_memory", "diverged", "data_suspect")]
    worst = found[0].symptom
    survived = worst.code == "out_of_memory" and result is not None
    return Diagnosis(
        health="unhealthy" if worst.code in _SERIOUS and not survived else "attention",
        summary=worst.evidence + _end(error if worst.code != "out_of_memory" else None),
        symptoms=[finding.symptom for finding in found],
        suggested_recipe=first_usable(recipe, found[0].changes),
    )


def _nothing_found(curves: Curves, error: Mapping[str, Any] | None, evidence: str = "") -> Diagnosis:
    if len(curves.losses) < ENOUGH_STEPS:
        return Diagnosis(
            health="unhealthy" if error else "unknown",
            summary=f"Steps measured so far: {len(curves.losses)}, too few to judge." + _end(error),
            symptoms=[],
            suggested_recipe={},
        )
    if not evidence:
        evidence = f"Training loss {curves.smooth[0]:.2f} → {curves.smooth[-1]:.2f}"
        if len(curves.held_out) > 1:
            evidence += f", held-out loss {curves.held_out[0][1]:.2f} → {curves.held_out[-1][1]:.2f}"
        evidence += "."
    return Diagnosis(
        health="healthy" if not error else "attention",
        summary=evidence + _end(error),
        symptoms=[Symptom(code="healthy", evidence=evidence, advice=[])],
        suggested_recipe={},
    )


def _end(error: Mapping[str, Any] | None) -> str:
    return f" It ended with {error.get('code')}: {str(error.get('message', ''))[:300]}" if error else ""


def _data_suspect(curves: Curves, facts: Facts | None) -> Finding | None:
    found = suspicion(facts) if facts is not None else None
    evidence, advice = found or (_suspect_losses(curves), None)
    if not evidence:
        return None
    look = Advice(change="Look at rendered rows with preview_dataset", why="It shows exactly what was trained on.")
    score = Advice(
        change="Run score_dataset and clean_dataset", why="Duplicates across the split, damage or residue show there."
    )
    # Of the recipe nothing is to be changed: it is the rows.
    return Finding(
        Symptom(code="data_suspect", evidence=evidence, advice=[advice or score, look]),
        iter(()),
    )


def _suspect_losses(curves: Curves) -> str:
    """What the losses say against the data; empty where nothing."""
    before, best = curves.before, curves.best
    if before is not None and best is not None:
        if before > IMPLAUSIBLE_LOSS and best[1] > STILL_IMPLAUSIBLE * before and best[0] > 0:
            return (
                f"Held-out loss is {before:.1f} before training and {best[1]:.1f} at best: "
                "the text does not look like language to this model."
            )
        if before < KNOWN_LOSS:
            return f"Held-out loss before training is {before:.2f}: the model knows these answers already."
    # The mean of the last steps, not the first: early on the training loss is above everything.
    if len(curves.losses) >= ENOUGH_STEPS and len(curves.held_out) > 1:
        last = curves.held_out[-1][1]
        if last < LEAK_RATIO * curves.smooth[-1]:
            return f"Held-out loss {last:.2f} is far below the training loss {curves.smooth[-1]:.2f}."
    return ""
