"""From everything that was gathered to the `Comparison`: once when it is complete, and again when people score it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.evaluation import judge_scoring, remarks
from tunesmith.evaluation.asking import AnswerFile
from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.heldout import HeldOutLoss
from tunesmith.evaluation.human import HumanFile
from tunesmith.evaluation.human_figures import about_people, hear_people
from tunesmith.evaluation.lineage import lineage
from tunesmith.evaluation.material import (
    Judged,
    StoredContestant,
    StoredMaterial,
    read_material,
    stored_cost,
    write_material,
)
from tunesmith.evaluation.records import Answer, Comparison, JudgeInfo, ModelScore, Question, Sample, Sampling
from tunesmith.evaluation.report import markdown_report
from tunesmith.evaluation.report_html import html_report
from tunesmith.evaluation.scoring import Answered, compare_pairs, read_answers
from tunesmith.evaluation.store import ANSWERS_FILE, HTML_FILE, ComparisonStore
from tunesmith.evaluation.training_data import TrainingData, cost_of
from tunesmith.evaluation.verdicts import reach_verdict
from tunesmith.evaluation.worth import judge_worth
from tunesmith.evaluation.worth_facts import answer_facts
from tunesmith.workspace import Workspace

SAMPLES = 10
SAMPLE_CHARS = 300
ALL_SAMPLES_CHARS = 8000


@dataclass(frozen=True)
class Material:
    """What a comparison gathered. `answers` and `losses` are by label.

    Attributes:
        identities: of the contestants, equal where two references mean the same model.
        questions_there: questions that `questions` were drawn from.
        judged: what the judge said; None without one.
    """

    comparison_id: str
    folder: Path
    contestants: Sequence[Contestant]
    identities: Sequence[str]
    questions: Sequence[Question]
    questions_there: int
    sampling: Sampling
    answers: Mapping[str, list[Answer]]
    judged: Judged | None
    losses: Mapping[str, HeldOutLoss]
    training: TrainingData
    dataset_id: str | None
    notes: Sequence[str]


def conclude_first(workspace: Workspace, material: Material) -> Comparison:
    """Keep what was gathered, conclude, write the reports, and show the comparison as complete.

    Raises:
        Conflict: it was completed before.
    """
    stored = _stored(workspace, material)
    write_material(material.folder, stored)
    comparison = _conclude(workspace, material.folder, stored, material.answers)
    ComparisonStore(workspace).complete(
        comparison,
        **_reports(comparison, material.folder, stored, material.answers, material.contestants),
    )
    return comparison


def reconclude(workspace: Workspace, comparison_id: str) -> Comparison:
    """Conclude a complete comparison again from what was kept, as people have scored it; nobody is asked.

    The comparison, report.md and report.html are written anew.

    Raises:
        InvalidArgument: not a comparison id.
        NotFound: no such comparison, it is not complete, or its material is gone.
        StoreCorrupt: its material is damaged.
    """
    store = ComparisonStore(workspace)
    folder = store.folder(comparison_id)
    stored = read_material(folder)
    answers = _answers(stored, AnswerFile(folder / ANSWERS_FILE))
    comparison = _conclude(workspace, folder, stored, answers)
    contestants = [one.as_contestant(workspace) for one in stored.contestants]
    store.rewrite(comparison, **_reports(comparison, folder, stored, answers, contestants))
    return comparison


def _reports(
    comparison: Comparison,
    folder: Path,
    stored: StoredMaterial,
    answers: Mapping[str, list[Answer]],
    contestants: Sequence[Contestant],
) -> dict[str, str]:
    """Both reports, with the scores of judge and people beside the answers."""
    judged, human = stored.judged.answers if stored.judged else [], HumanFile(folder).read()
    shown = (comparison, stored.questions, answers, contestants)
    return {
        "markdown": markdown_report(*shown, judged=judged, human=human),
        "html": html_report(*shown, judged=judged, human=human),
    }


def roles(contestants: Sequence[StoredContestant]) -> tuple[str, str]:
    """Labels of whom the verdict is about, and whom it is compared with.

    The first model trained here against the first that was not; where all or none were trained here, the last
    against the first.
    """
    trained = [one.label for one in contestants if one.record is not None]
    others = [one.label for one in contestants if one.record is None]
    if trained and others:
        return trained[0], others[0]
    return contestants[-1].label, contestants[0].label


def _stored(workspace: Workspace, material: Material) -> StoredMaterial:
    costs = {one.label: cost_of(workspace, one) for one in material.contestants}
    return StoredMaterial(
        comparison_id=material.comparison_id,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        questions=list(material.questions),
        questions_there=material.questions_there,
        sampling=material.sampling,
        contestants=[_stored_contestant(one, material) for one in material.contestants],
        answer_keys={label: [answer.key for answer in given] for label, given in material.answers.items()},
        judged=material.judged,
        dataset_id=material.dataset_id,
        costs={label: stored_cost(cost) for label, cost in costs.items() if cost is not None},
        lineage=lineage(material.contestants, material.training, material.dataset_id, measured=bool(material.losses)),
        notes=[
            *material.notes,
            *remarks.about_material(
                material.contestants,
                material.questions,
                material.questions_there,
                material.sampling,
                material.training,
                losses=[loss.origin for loss in material.losses.values()],
                identities=material.identities,
            ),
        ],
    )


def _stored_contestant(one: Contestant, material: Material) -> StoredContestant:
    loss = material.losses.get(one.label)
    trained_on = material.training.text_of(one.label)
    replies = [answer.reply for answer in material.answers[one.label] if answer.reply is not None]
    share = trained_on.share(replies) if trained_on else None
    return StoredContestant(
        label=one.label,
        kind=one.reference.kind,
        name=one.reference.name,
        base_url=one.reference.base_url,
        text=one.reference.text,
        way=one.way,
        served=one.served,
        identity=one.identity,
        base_model=one.base_model,
        record=one.record,
        heldout_loss=round(loss.loss, 4) if loss else None,
        heldout=loss.origin if loss else None,
        memorised_share=round(share, 4) if share is not None else None,
    )


def _answers(stored: StoredMaterial, file: AnswerFile) -> dict[str, list[Answer]]:
    """The answers that the comparison was concluded from; of one that was asked for twice, the reply if one came."""
    found: dict[tuple[str, str], Answer] = {}
    for answer in file.read():
        known = found.get((answer.label, answer.key))
        if known is None or known.reply is None:
            found[answer.label, answer.key] = answer
    return {
        label: [found[label, key] for key in keys if (label, key) in found]
        for label, keys in stored.answer_keys.items()
    }


def _conclude(
    workspace: Workspace, folder: Path, stored: StoredMaterial, answers: Mapping[str, list[Answer]]
) -> Comparison:
    """Figures, pairs, verdict, and whether it was worth it."""
    seed, judged = stored.sampling.seed, stored.judged
    answered = [read_answers(one.label, answers[one.label], stored.questions) for one in stored.contestants]
    scores = judge_scoring.scores_by_question(judged.answers) if judged else {}
    labels = [one.label for one in stored.contestants]
    if judged:
        judge = _judge(judged)
        pairs = judge_scoring.judged_pairs(labels, scores, judged.pairs, seed)
    else:
        judge, pairs = None, compare_pairs(answered, seed)
    candidate, baseline = roles(stored.contestants)
    verdict = reach_verdict(pairs, candidate, baseline, judge)
    people = hear_people(
        HumanFile(folder).read(),
        labels,
        answered={one.label: {answer.question for answer in one.replies} for one in answered},
        judged=judged.answers if judged else [],
        otherwise=verdict,
        seed=seed,
    )
    if people is not None:
        verdict = people.verdict
    models = []
    for one, measured in zip(stored.contestants, answered, strict=True):
        score = _score(one, measured, seed)
        human = people.rubrics.get(one.label) if people else None
        by_judge = judge_scoring.rubric(scores.get(one.label), seed)
        models.append(score.model_copy(update={"rubric": by_judge, "human": human}))
    by_label = {score.label: score for score in models}
    samples = _samples(stored, answers)
    return Comparison(
        comparison_id=stored.comparison_id,
        created_at=stored.created_at,
        questions=len(stored.questions),
        sampling=stored.sampling,
        models=models,
        judge=judge,
        human=people.info if people else None,
        pairs=pairs,
        verdict=verdict,
        worth_it=judge_worth(
            verdict,
            by_label[candidate],
            by_label[baseline],
            stored.cost_of(candidate),
            models=models,
            pairs=pairs,
            judge=judge,
            facts=answer_facts(stored.questions, answers),
        ),
        samples=samples,
        samples_left_out=len(stored.questions) - len(samples),
        notes=[
            *stored.notes,
            *remarks.about_failures(models),
            *(remarks.about_judge(judge, judged.cut, pairs) if judge and judged else []),
            *(about_people(people.info) if people else []),
        ],
        lineage=stored.lineage,
        report=str(folder / HTML_FILE),
        resources=[f"comparisons://{stored.comparison_id}/report"],
    )


def _judge(judged: Judged) -> JudgeInfo:
    return judged.info.model_copy(
        update={
            "position_consistency": judge_scoring.overall_consistency(judged.pairs),
            "same_scores_note": judge_scoring.same_scores_note(judged.answers),
        }
    )


def _score(one: StoredContestant, measured: Answered, seed: int) -> ModelScore:
    errors = [answer.error for answer in measured.answers if answer.error is not None]
    return ModelScore(
        label=one.label,
        model=one.text or one.name,
        served=one.served,
        rubric=None,
        heldout_loss=one.heldout_loss,
        heldout=one.heldout,
        similarity=measured.similarity(seed),
        memorised_share=one.memorised_share,
        stop_rate=measured.stop_rate(),
        mean_chars=measured.mean_chars(),
        latency_s=measured.latency_s(),
        tokens_per_s=measured.tokens_per_s(),
        answered=len(measured.replies),
        errors=len(errors),
        retries=sum(max(0, answer.attempts - 1) for answer in measured.answers),
        first_error=errors[0] if errors else None,
    )


def _samples(stored: StoredMaterial, answers: Mapping[str, list[Answer]]) -> list[Sample]:
    """The first questions with their first replies, as many as a result has room for."""
    found: list[Sample] = []
    room = ALL_SAMPLES_CHARS
    first = {
        (label, answer.question): answer.reply
        for label, given in answers.items()
        for answer in given
        if answer.repetition == 1
    }
    for question in stored.questions[:SAMPLES]:
        replies = {label: _cut(first.get((label, question.question))) for label in answers}
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
