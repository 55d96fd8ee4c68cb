"""A comparison made of answers, without asking anybody: for the reports and the worth-it verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.data.records import Message
from tunesmith.evaluation.judgements import JudgedAnswer
from tunesmith.evaluation.records import Answer, Comparison, Lineage, ModelScore, Question, Sampling
from tunesmith.evaluation.scoring import compare_pairs, read_answers
from tunesmith.evaluation.verdicts import reach_verdict
from tunesmith.evaluation.worth import Cost, judge_worth
from tunesmith.evaluation.worth_facts import answer_facts


def asked(texts: Sequence[tuple[str, str | None]]) -> list[Question]:
    return [
        Question(question=number, messages=[Message(role="user", content=text)], reference=reference)
        for number, (text, reference) in enumerate(texts, start=1)
    ]


def answer(label: str, question: int, reply: str | None, *, error: str | None = None, cut: bool = False) -> Answer:
    reason = None if reply is None else "length" if cut else "stop"
    return Answer(
        label=label, question=question, repetition=1, key=f"{label}{question}", reply=reply, finish_reason=reason,
        tokens=None, seconds=0.1, attempts=1, error=error,
    )  # fmt: skip


def scores(label: str, values: Mapping[int, int]) -> list[JudgedAnswer]:
    return [
        JudgedAnswer(label=label, question=number, repetition=1, domain_knowledge=value, response_style=value,
                     accuracy=value, reason="")
        for number, value in values.items()
    ]  # fmt: skip


def model_score(label: str, **changes: object) -> ModelScore:
    content = {
        "label": label, "model": "embedded", "served": "a file", "rubric": None, "heldout_loss": None,
        "similarity": None, "memorised_share": None, "stop_rate": None, "latency_s": None, "tokens_per_s": None,
        "answered": 1, "errors": 0, **changes,
    }  # fmt: skip
    return ModelScore.model_validate(content)


def made(
    questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], cost: Cost | None = None
) -> Comparison:
    """Concluded from answers alone: the second model is the candidate."""
    read = [read_answers(label, list(given), questions) for label, given in answers.items()]
    pairs = compare_pairs(read, 1)
    baseline, candidate = list(answers)[:2]
    verdict = reach_verdict(pairs, candidate, baseline)
    models = [
        model_score(one.label, similarity=one.similarity(1), stop_rate=one.stop_rate(), mean_chars=one.mean_chars())
        for one in read
    ]
    facts = answer_facts(questions, answers)
    return Comparison(
        comparison_id="cmp_aaaaaaaaaaaa",
        created_at="2026-01-02T03:04:05.000+00:00",
        questions=len(questions),
        sampling=Sampling(temperature=0, max_tokens=96, seed=1, repetitions=1),
        models=models,
        pairs=pairs,
        verdict=verdict,
        worth_it=judge_worth(verdict, models[1], models[0], cost, models=models, pairs=pairs, facts=facts),
        samples=[],
        samples_left_out=len(questions),
        notes=["A note."],
        lineage=Lineage(
            dataset_id=None, heldout_dataset_id=None, versions={"tunesmith": "1"}, models=[],
            datasets=[{"dataset_id": "ds_aaaaaaaaaaaa", "parents": ["ds_bbbbbbbbbbbb"], "rows": 3, "sha256": "f00d"}],
        ),
        report="report.html",
        resources=[],
    )  # fmt: skip
