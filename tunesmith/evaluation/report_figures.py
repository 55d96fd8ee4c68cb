"""The figures both reports show: the summary, each question's difference, each model's columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.records import Answer, Comparison, Interval, ModelScore, Pair, Question, Rubric
from tunesmith.evaluation.report_text import interval, number, p_text, printable
from tunesmith.evaluation.scoring import TIE_POINTS, read_answers
from tunesmith.evaluation.verdicts import turned
from tunesmith.evaluation.worth_facts import AnswerFacts

COLUMNS = (
    "model",
    "chrF",
    "ROUGE-L",
    "numbers right",
    "held-out loss",
    "perplexity",
    "memorised",
    "stop rate",
    "characters",
    "latency",
    "tokens/s",
    "errors",
)
CRITERIA = ("domain_knowledge", "response_style", "accuracy", "total")
NAMES = {"domain_knowledge": "domain knowledge", "response_style": "response style"}
EVEN_SCORES = 0.01  # two means of three whole numbers are equal or a third apart


class Scored(Protocol):
    """Three scores of one answer: a judge's, or a person's."""

    @property
    def label(self) -> str: ...
    @property
    def question(self) -> int: ...
    @property
    def domain_knowledge(self) -> int: ...
    @property
    def response_style(self) -> int: ...
    @property
    def accuracy(self) -> int: ...


@dataclass(frozen=True)
class Differences:
    """Candidate minus baseline, question by question, in what the verdict rests on.

    Attributes:
        unit: what a point is.
        even: differences smaller than this are ties.
        mean: with its interval, of the pair.
    """

    candidate: str
    baseline: str
    unit: str
    even: float
    by_question: Mapping[int, float]
    mean: Interval | None

    def side(self, question: int) -> str:
        """up, down or even; empty where nothing was compared."""
        value = self.by_question.get(question)
        if value is None:
            return ""
        return "even" if abs(value) < self.even else "up" if value > 0 else "down"


def main_pair(comparison: Comparison) -> Pair | None:
    """The pair of the verdict, seen from the candidate: by people where they decide."""
    human, verdict = comparison.human, comparison.verdict
    pairs = human.pairs if human is not None and human.decides else comparison.pairs
    wanted = {verdict.candidate, verdict.baseline}
    found = next((pair for pair in pairs if {pair.a, pair.b} == wanted), None)
    return found and turned(found, verdict.candidate)


def shown_pairs(comparison: Comparison, pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs as they are shown: that of the verdict first and seen from the candidate."""
    verdict = comparison.verdict
    wanted = {verdict.candidate, verdict.baseline}
    first = [turned(pair, verdict.candidate) for pair in pairs if {pair.a, pair.b} == wanted]
    return [*first, *(pair for pair in pairs if {pair.a, pair.b} != wanted)]


def differences(
    comparison: Comparison,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    judged: Sequence[Scored],
    human: Sequence[Scored],
) -> Differences:
    """Each question's difference between candidate and baseline."""
    verdict, pair = comparison.verdict, main_pair(comparison)
    two = (verdict.candidate, verdict.baseline)
    people_decide = comparison.human is not None and comparison.human.decides
    given = human if people_decide else judged if comparison.judge is not None else ()
    if given:
        unit, even = "points of the rubric, 1 to 5", EVEN_SCORES
        ours, theirs = (_means(given, label) for label in two)
    else:
        unit, even = "chrF points", TIE_POINTS
        ours, theirs = (read_answers(label, list(answers.get(label, ())), questions).chrf for label in two)
    both = sorted(ours.keys() & theirs.keys())
    found = {number: ours[number] - theirs[number] for number in both}
    return Differences(*two, unit=unit, even=even, by_question=found, mean=pair.difference if pair else None)


def _means(given: Sequence[Scored], label: str) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for one in given:
        if one.label == label:
            total = one.domain_knowledge + one.response_style + one.accuracy
            found.setdefault(one.question, []).append(total / 3)
    return {number: sum(values) / len(values) for number, values in found.items()}


def certainty(comparison: Comparison) -> str:
    """What the verdict rests on, in one sentence, with its interval; empty where nothing was judged."""
    pair = main_pair(comparison)
    if pair is None or pair.win_rate is None:
        return ""
    rate = f"{pair.a} wins {interval_words(pair.win_rate, '{:.0%}')} of {pair.questions} questions, ties counted half"
    if pair.difference is None:
        return f"{rate}; {p_text(pair.p_value)}."
    unit = "chrF points" if pair.judged_by == "similarity" else "points of 5"
    return f"{rate}; mean difference {interval_words(pair.difference, '{:+.1f}')} {unit}; {p_text(pair.p_value)}."


def interval_words(value: Interval, form: str) -> str:
    """A mean with its interval, in words."""
    return f"{form.format(value.mean)} (95 % interval {form.format(value.low)} to {form.format(value.high)})"


def score_cells(score: ModelScore, facts: AnswerFacts) -> list[str]:
    """A model's figures as text, one for each of `COLUMNS`."""
    similarity, recall = score.similarity, facts.recall.get(score.label)
    return [
        score.label,
        interval(similarity.chrf if similarity else None, "{:.1f}"),
        interval(similarity.rouge_l if similarity else None, "{:.2f}"),
        f"{recall.right} of {recall.of}" if recall else "–",
        number(score.heldout_loss, "{:.3f}"),
        number(score.heldout.perplexity if score.heldout else None, "{:.2f}"),
        number(score.memorised_share, "{:.0%}"),
        number(score.stop_rate, "{:.0%}"),
        number(score.mean_chars, "{:.0f}"),
        number(score.latency_s, "{:.1f} s"),
        number(score.tokens_per_s, "{:.0f}"),
        str(score.errors),
    ]


def rubric_rows(comparison: Comparison) -> list[tuple[str, str, list[str]]]:
    """Label, who scored, and the four figures: judge and people under each other."""
    rows: list[tuple[str, str, list[str]]] = []
    for score in comparison.models:
        for who, rubric in (("judge", score.rubric), ("people", score.human)):
            if rubric is not None:
                rows.append((score.label, who, [interval(_criterion(rubric, name), "{:.1f}") for name in CRITERIA]))
    return rows


def _criterion(rubric: Rubric, name: str) -> Interval:
    found = getattr(rubric, name)
    assert isinstance(found, Interval)
    return found


def agreement_text(comparison: Comparison) -> str:
    """How far judge and people agree; empty where they cannot be compared."""
    found = comparison.human.agreement if comparison.human else None
    if found is None:
        return ""
    kappa = f", weighted kappa {found.weighted_kappa:.2f}" if found.weighted_kappa is not None else ""
    rank = f", rank correlation {found.rank_correlation:.2f}" if found.rank_correlation is not None else ""
    return (
        f"Judge and people, over {found.pairs} answers both scored: {found.exact:.0%} of the scores the same, "
        f"{found.within_one:.0%} at most one point apart, the judge {found.difference:+.2f}{kappa}{rank}."
    )


def by_question_and_label(
    answers: Mapping[str, Sequence[Answer]], scores: Mapping[str, Sequence[Scored]]
) -> tuple[dict[int, list[Answer]], dict[tuple[int, str], list[str]]]:
    """Answers by question, and what was scored as text, by question and label.

    Args:
        answers: by label.
        scores: by who gave them: `judge`, `people`.
    """
    by_question: dict[int, list[Answer]] = {}
    for given in answers.values():
        for answer in given:
            by_question.setdefault(answer.question, []).append(answer)
    noted: dict[tuple[int, str], list[str]] = {}
    for who, given in scores.items():
        for one in given:
            noted.setdefault((one.question, one.label), []).append(scores_text(who, one))
    return by_question, noted


def scores_text(who: str, one: Scored) -> str:
    """The scores of one answer, with who gave them and what else they said, where they said it."""
    by, note = getattr(one, "by", None), getattr(one, "note", None)
    name, said = f" ({by})" if by else "", f" – {note}" if note else ""
    return f"{who}{name}: {one.domain_knowledge} / {one.response_style} / {one.accuracy}{said}"


def pair_cells(pair: Pair) -> list[str]:
    """A pair as text: names, wins, ties, losses, win rate, difference, p, sign test, consistency."""
    return [
        f"{pair.a} against {pair.b}",
        str(pair.wins),
        str(pair.ties),
        str(pair.losses),
        interval(pair.win_rate, "{:.0%}"),
        interval(pair.difference, "{:+.1f}"),
        number(pair.p_value, "{:.3g}"),
        number(pair.sign_p_value, "{:.3g}"),
        number(pair.position_consistency, "{:.0%}"),
    ]


PAIR_COLUMNS = ("pair", "wins", "ties", "losses", "win rate", "difference", "p (corrected)", "p (sign)", "consistency")


def provenance(comparison: Comparison, contestants: Sequence[Contestant]) -> str:
    """Sampling, models with their recipes, datasets, versions and digests, as JSON."""
    lineage = comparison.lineage.model_dump(mode="json")
    recipes = {one.label: one.record.recipe for one in contestants if one.record}
    for model in lineage["models"]:
        model["recipe"] = recipes.get(model["label"])
    served = {score.label: {"model": score.model, "served": score.served} for score in comparison.models}
    judge = comparison.judge.model_dump(mode="json") if comparison.judge else None
    content = {"sampling": comparison.sampling.model_dump(), "served": served, "judge": judge, **lineage}
    return printable(json.dumps(content, ensure_ascii=False, indent=2))
