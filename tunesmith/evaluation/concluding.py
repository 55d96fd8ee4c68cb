"""From everything that was gathered to the `Comparison`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.heldout import HeldOutLoss
from tunesmith.evaluation.records import (
    Answer,
    Comparison,
    Lineage,
    ModelScore,
    Question,
    Sample,
    Sampling,
)
from tunesmith.evaluation.scoring import Answered, compare_pairs, reach_verdict, read_answers
from tunesmith.evaluation.store import HTML_FILE
from tunesmith.evaluation.training_data import TrainingData, cost_of
from tunesmith.evaluation.worth import judge_worth
from tunesmith.workspace import Workspace

SAMPLES = 10
SAMPLE_CHARS = 300
ALL_SAMPLES_CHARS = 8000
PACKAGES = ("openai", "sacrebleu", "xllamacpp", "tokenizers", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Material:
    """What a comparison gathered. `answers` and `losses` are by label."""

    comparison_id: str
    folder: Path
    contestants: Sequence[Contestant]
    questions: Sequence[Question]
    questions_in_dataset: int
    sampling: Sampling
    answers: Mapping[str, list[Answer]]
    losses: Mapping[str, HeldOutLoss]
    training: TrainingData
    dataset_id: str | None
    notes: Sequence[str]


def conclude(workspace: Workspace, material: Material) -> Comparison:
    """Figures, pairs, verdict, and whether it was worth it."""
    seed = material.sampling.seed
    answered = [
        read_answers(one.label, material.answers[one.label], material.questions) for one in material.contestants
    ]
    scores = [
        _score(one, measured, material, seed) for one, measured in zip(material.contestants, answered, strict=True)
    ]
    pairs = compare_pairs(answered, seed)
    candidate, baseline = roles(material.contestants)
    verdict = reach_verdict(pairs, candidate.label, baseline.label)
    by_label = {score.label: score for score in scores}
    samples = _samples(material)
    return Comparison(
        comparison_id=material.comparison_id,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        questions=len(material.questions),
        sampling=material.sampling,
        models=scores,
        pairs=pairs,
        verdict=verdict,
        worth_it=judge_worth(
            verdict, by_label[candidate.label], by_label[baseline.label], cost_of(workspace, candidate)
        ),
        samples=samples,
        samples_left_out=len(material.questions) - len(samples),
        notes=[*material.notes, *_notes(material, scores)],
        lineage=_lineage(material),
        report=str(material.folder / HTML_FILE),
        resources=[f"comparisons://{material.comparison_id}/report"],
    )


def roles(contestants: Sequence[Contestant]) -> tuple[Contestant, Contestant]:
    """Who the verdict is about, and whom it is compared with.

    The first model trained here against the first that was not; where all or none were trained here, the last
    against the first.
    """
    trained = [one for one in contestants if one.record is not None]
    others = [one for one in contestants if one.record is None]
    if trained and others:
        return trained[0], others[0]
    return contestants[-1], contestants[0]


def _score(one: Contestant, measured: Answered, material: Material, seed: int) -> ModelScore:
    errors = [answer.error for answer in measured.answers if answer.error is not None]
    loss = material.losses.get(one.label)
    trained_on = material.training.text_of(one.label)
    share = trained_on.share(answer.reply or "" for answer in measured.replies) if trained_on else None
    return ModelScore(
        label=one.label,
        model=one.reference.text or one.reference.name,
        served=one.served,
        rubric=None,
        heldout_loss=round(loss.loss, 4) if loss else None,
        heldout=loss.origin if loss else None,
        similarity=measured.similarity(seed),
        memorised_share=round(share, 4) if share is not None else None,
        stop_rate=measured.stop_rate(),
        mean_chars=measured.mean_chars(),
        latency_s=measured.latency_s(),
        tokens_per_s=measured.tokens_per_s(),
        answered=len(measured.replies),
        errors=len(errors),
        first_error=errors[0] if errors else None,
    )


def _samples(material: Material) -> list[Sample]:
    """The first questions with their first replies, as many as a result has room for."""
    found: list[Sample] = []
    room = ALL_SAMPLES_CHARS
    first = {
        (label, answer.question): answer.reply
        for label, answers in material.answers.items()
        for answer in answers
        if answer.repetition == 1
    }
    for question in material.questions[:SAMPLES]:
        replies = {label: _cut(first[label, question.question]) for label in material.answers}
        sample = Sample(question=_cut(question.text) or "", reference=_cut(question.reference), replies=replies)
        room -= sum(len(text or "") for text in (sample.question, sample.reference, *replies.values()))
        if found and room < 0:
            break
        found.append(sample)
    return found


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= SAMPLE_CHARS:
        return text
    return text[: SAMPLE_CHARS - 1] + "…"


def _notes(material: Material, scores: Sequence[ModelScore]) -> list[str]:
    sampling, contestants = material.sampling, material.contestants
    notes = []
    if material.questions_in_dataset > len(material.questions):
        notes.append(
            f"{len(material.questions)} of {material.questions_in_dataset} held-out rows were asked, drawn with seed "
            f"{sampling.seed}."
        )
    without = sum(question.reference is None for question in material.questions)
    if without:
        notes.append(f"{without} of {len(material.questions)} questions have no reference; nothing is scored on them.")
    leaked = material.training.leaked(material.questions)
    if leaked:
        notes.append(
            f"{leaked} of {len(material.questions)} questions stand word for word in the training rows: on them a "
            "model trained here shows what it remembers, not what it learned."
        )
    if sampling.repetitions > 1 and sampling.temperature == 0:
        notes.append("At temperature 0 repetitions give the same answer over and over; they add no evidence.")
    failed = [score for score in scores if score.errors]
    notes += [f"{score.label}: {score.errors} requests failed ({score.first_error})." for score in failed]
    if len({one.way for one in contestants}) > 1:
        notes.append("The models are run in different ways, so latency and tokens/s do not compare the models alone.")
    if sampling.temperature > 0 and any(one.reference.kind == "ollama" for one in contestants):
        notes.append("Ollama keeps its own top_k; the other models draw from all tokens.")
    if any(one.way == "gguf" and one.record for one in contestants) and material.losses:
        notes.append("Answers come from the quantised GGUF, held-out losses from the weights before quantisation.")
    if any(loss.origin.source == "training_run" for loss in material.losses.values()):
        notes.append("The held-out losses are the training run's own: it measured exactly these rows.")
    identities = [one.identity for one in contestants]
    if len(set(identities)) < len(identities):
        notes.append("One model stands under several labels: what differs between them is chance.")
    notes += [f"Dataset {identity}, which a model was trained on, is gone." for identity in material.training.missing]
    return notes


def _lineage(material: Material) -> Lineage:
    return Lineage(
        dataset_id=material.dataset_id,
        heldout_dataset_id=material.training.heldout_dataset() if material.losses else None,
        versions=_versions(),
        models=[_model_lineage(one) for one in material.contestants if one.record],
        datasets=material.training.lineage(),
    )


def _model_lineage(one: Contestant) -> dict[str, Any]:
    assert one.record is not None
    folder = one.workspace.models / one.record.model_id
    served = one.gguf or one.adapter or one.weights
    file = next((file for file in one.record.files if served and folder / file.path == served), None)
    return {
        "label": one.label,
        "model_id": one.record.model_id,
        "run_id": one.record.run_id,
        "dataset_id": one.record.dataset_id,
        "base_model": one.record.base_model,
        "method": one.record.method,
        "file": file.path if file else None,
        "sha256": file.sha256 if file else None,
        "prompt_format_sha256": one.prompt_format.sha256 if one.prompt_format else None,
    }


def _versions() -> dict[str, str]:
    found = {"tunesmith": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
