"""From what a judge said to figures: each model's rubric, and every two models against each other.

Two things are told apart. Scores say how good an answer is by itself; comparisons, blind and in both orders, say which
of two is better. Both are tested, and the smaller p-value counts double, as there were two chances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal

from tunesmith.evaluation import statistics
from tunesmith.evaluation.judge_prompts import CRITERIA
from tunesmith.evaluation.judgements import JudgedAnswer, JudgedPair
from tunesmith.evaluation.records import CriterionDifference, Pair, Rubric

CHANCES = 2  # tests of one pair
# Below this share a judge that clearly prefers one place is one that goes by places.
POOR_CONSISTENCY = 0.5
SAME_NOTE = "Every answer got the same scores: this judge does not tell these answers apart."

# By question, the means over its repetitions, in the order of CRITERIA.
ByQuestion = Mapping[int, tuple[float, float, float]]


def scores_by_question(judged: Iterable[JudgedAnswer]) -> dict[str, dict[int, tuple[float, float, float]]]:
    """By label and question, the mean of each criterion over the repetitions that were scored."""
    found: dict[str, dict[int, list[tuple[int, int, int]]]] = {}
    for one in judged:
        values = (one.domain_knowledge, one.response_style, one.accuracy)
        found.setdefault(one.label, {}).setdefault(one.question, []).append(values)
    return {
        label: {number: _means(values) for number, values in sorted(questions.items())}
        for label, questions in found.items()
    }


def rubric(scores: ByQuestion | None, seed: int) -> Rubric | None:
    """One model's scores with intervals over the questions; None without any."""
    if not scores:
        return None
    columns = list(zip(*scores.values(), strict=True))
    intervals = {
        name: statistics.mean_interval(column, seed=seed) for name, column in zip(CRITERIA, columns, strict=True)
    }
    total = statistics.mean_interval([sum(values) for values in scores.values()], seed=seed)
    return Rubric(**intervals, total=total, questions=len(scores))


def judged_pairs(
    labels: Sequence[str], scores: Mapping[str, ByQuestion], compared: Sequence[JudgedPair], seed: int
) -> list[Pair]:
    """Every two models, by a judge, with p-values corrected over the pairs."""
    pairs = [judge_two(a, b, scores, compared, seed) for a, b in combinations(labels, 2)]
    return statistics.corrected(pairs)


def judge_two(a: str, b: str, scores: Mapping[str, ByQuestion], compared: Sequence[JudgedPair], seed: int) -> Pair:
    """Model `a` against `b`; the p-value is not corrected over pairs yet.

    A question is won by whom the judge preferred in both orders; over repetitions, by who won more of them. A judge
    that goes by places (it clearly prefers one, and is consistent in less than half of the cases) is not believed in
    its scores either: only what it prefers in both orders counts then.
    """
    both_orders = [
        one for one in compared if {one.a, one.b} == {a, b} and one.a_first is not None and one.b_first is not None
    ]
    won = _won(both_orders, a)
    points = list(won.values())
    wins, losses = sum(value > 0 for value in points), sum(value < 0 for value in points)
    asked = [one for one in both_orders if not one.same]
    consistency = sum(one.a_first == one.b_first for one in asked) / len(asked) if asked else None
    bias = _bias(asked) if consistency is not None and consistency < POOR_CONSISTENCY else None
    ours, theirs = scores.get(a, {}), scores.get(b, {})
    scored = sorted(ours.keys() & theirs.keys())
    if not scored and not points:
        return Pair(
            a=a, b=b, judged_by="nothing", questions=0, wins=0, ties=0, losses=0, win_rate=None, p_value=None,
            position_consistency=None,
        )  # fmt: skip
    differences = [round(sum(ours[n]) / 3 - sum(theirs[n]) / 3, 6) for n in scored]
    by_sign = statistics.sign_test(wins, losses) if points else None
    by_score = statistics.signed_rank_test(differences) if scored else None
    counted = [p for p in (by_sign, None if bias else by_score) if p is not None]
    visible = statistics.smallest_visible(differences, level=statistics.LEVEL / CHANCES)
    return Pair(
        a=a,
        b=b,
        judged_by="judge",
        questions=len(won.keys() | set(scored)),
        wins=wins,
        ties=len(points) - wins - losses,
        losses=losses,
        win_rate=statistics.mean_interval([_share(value) for value in points], seed=seed) if points else None,
        difference=statistics.mean_interval(differences, seed=seed) if scored else None,
        p_value=round(min(1.0, CHANCES * min(counted)), 6) if counted else None,
        sign_p_value=round(by_sign, 6) if by_sign is not None else None,
        score_p_value=round(by_score, 6) if by_score is not None else None,
        criteria=_criteria(ours, theirs, scored, seed) if scored else None,
        smallest_visible=round(visible, 2) if visible is not None else None,
        position_consistency=round(consistency, 4) if consistency is not None else None,
        position_bias=bias,
    )


def overall_consistency(compared: Iterable[JudgedPair]) -> float | None:
    """Share of all comparisons in which the same answer was preferred in both orders; None without any."""
    asked = [one for one in compared if one.a_first is not None and one.b_first is not None and not one.same]
    return round(sum(one.a_first == one.b_first for one in asked) / len(asked), 4) if asked else None


def same_scores_note(judged: Sequence[JudgedAnswer]) -> str | None:
    """Why scores say little, where every answer got the same."""
    different = {(one.domain_knowledge, one.response_style, one.accuracy) for one in judged}
    return SAME_NOTE if len(judged) > 2 and len(different) == 1 else None


def _won(both_orders: Sequence[JudgedPair], a: str) -> dict[int, float]:
    """By question, the mean over repetitions of 1 (a won), -1 (it lost) and 0."""
    found: dict[int, list[int]] = {}
    for one in both_orders:
        agreed = one.a_first if one.a_first == one.b_first else "tie"
        value = 0 if agreed == "tie" else 1 if (agreed == "a") == (one.a == a) else -1
        found.setdefault(one.question, []).append(value)
    return {number: sum(values) / len(values) for number, values in sorted(found.items())}


def _bias(asked: Sequence[JudgedPair]) -> Literal["first", "second"] | None:
    """The place that was clearly preferred where the two orders did not agree."""
    always_first = sum((one.a_first, one.b_first) in (("a", "b"), ("a", "tie"), ("tie", "b")) for one in asked)
    always_second = sum((one.a_first, one.b_first) in (("b", "a"), ("b", "tie"), ("tie", "a")) for one in asked)
    if statistics.sign_test(always_first, always_second) >= statistics.LEVEL:
        return None
    return "first" if always_first > always_second else "second"


def _criteria(ours: ByQuestion, theirs: ByQuestion, scored: Sequence[int], seed: int) -> list[CriterionDifference]:
    columns = [[round(ours[n][place] - theirs[n][place], 6) for n in scored] for place in range(len(CRITERIA))]
    p_values = statistics.holm([statistics.signed_rank_test(column) for column in columns])
    return [
        CriterionDifference.model_validate(
            {
                "criterion": name,
                "difference": statistics.mean_interval(column, seed=seed),
                "p_value": round(p_value, 6),
            }
        )
        for name, column, p_value in zip(CRITERIA, columns, p_values, strict=True)
    ]


def _means(values: Sequence[tuple[int, int, int]]) -> tuple[float, float, float]:
    first, second, third = (sum(column) / len(values) for column in zip(*values, strict=True))
    return first, second, third


def _share(value: float) -> float:
    return 1.0 if value > 0 else 0.0 if value < 0 else 0.5
