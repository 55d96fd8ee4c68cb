from __future__ import annotations

import random
from itertools import product

import pytest

from tunesmith.evaluation import statistics
from tunesmith.evaluation.scoring import judge_pair
from tunesmith.evaluation.statistics import holm, mean_interval, sign_test, signed_rank_test, smallest_visible
from tunesmith.evaluation.verdicts import reach_verdict


def test_the_sign_test_is_the_binomial_one() -> None:
    assert sign_test(8, 0) == 2 / 2**8
    assert sign_test(0, 8) == 2 / 2**8
    assert sign_test(7, 1) == pytest.approx(0.0703125)
    assert sign_test(0, 0) == sign_test(4, 4) == 1


@pytest.mark.parametrize(
    "differences", [[1, 2, 3, 4, 5, 6], [3, -1, 4, 1, -5, 9, 2, -6], [1, 1, 1, -1, 2, -2, 2, 0, 0]], ids=str
)
def test_the_signed_rank_test_counts_every_assignment_of_signs(differences: list[float]) -> None:
    sizes = [abs(value) for value in differences if value]
    ranks = [sum(other < size for other in sizes) + (sum(other == size for other in sizes) + 1) / 2 for size in sizes]
    seen = sum(rank for rank, value in zip(ranks, filter(None, differences), strict=True) if value > 0)
    middle = sum(ranks) / 2
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product((0, 1), repeat=len(ranks))
    ]
    expected = sum(abs(value - middle) >= abs(seen - middle) for value in sums) / len(sums)
    assert signed_rank_test(differences) == pytest.approx(expected)


def test_the_normal_approximation_takes_over_without_a_jump() -> None:
    draw = random.Random(4)
    differences = [draw.gauss(0.3, 1) for _ in range(statistics.EXACT_UP_TO)]
    exact = signed_rank_test(differences)
    approximate = signed_rank_test([*differences, 1e-9])
    assert 0.001 < exact < 0.5
    assert approximate == pytest.approx(exact, rel=0.1)


def test_nothing_but_zeros_is_no_evidence() -> None:
    assert signed_rank_test([0.0] * 12) == signed_rank_test([]) == 1


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_an_interval_depends_on_the_seed_alone_and_holds_the_mean() -> None:
    values = [float(number % 7) for number in range(30)]
    first = mean_interval(values, seed=1)
    assert first == mean_interval(values, seed=1)
    assert first.low < first.mean < first.high
    assert first.mean == pytest.approx(sum(values) / 30, abs=1e-4)
    single = mean_interval([4.0], seed=1)
    assert single.low == single.mean == single.high == 4


def test_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    draw = random.Random(7)
    hits = 0
    for seed in range(60):
        found = mean_interval([draw.gauss(5, 2) for _ in range(25)], seed=seed)
        hits += found.low <= 5 <= found.high
    assert hits >= 51  # 95 % of 60 is 57


def test_more_questions_make_smaller_differences_visible() -> None:
    draw = random.Random(5)
    few, many = ([draw.gauss(0, 10) for _ in range(size)] for size in (8, 80))
    small, large = smallest_visible(many), smallest_visible(few)
    assert small is not None
    assert large is not None
    assert small < large
    assert smallest_visible([1.0]) is None
    assert statistics.fewest_questions() == 6


def test_a_model_against_itself_is_called_better_in_at_most_one_case_of_twenty() -> None:
    draw = random.Random(11)
    verdicts = []
    for seed in range(200):
        # Questions differ in difficulty; two draws of one model differ by chance, now and then widely.
        difficulty = [draw.uniform(5, 70) for _ in range(20)]
        scores = {
            label: {
                number: max(0.0, level + draw.gauss(0, 3 if draw.random() < 0.8 else 20))
                for number, level in enumerate(difficulty)
            }
            for label in ("a", "b")
        }
        verdicts.append(reach_verdict([judge_pair("a", "b", scores, seed)], "a", "b").answer)
    assert verdicts.count("better") <= 0.05 * len(verdicts)
    assert verdicts.count("worse") <= 0.05 * len(verdicts)


def test_a_real_difference_is_found() -> None:
    draw = random.Random(13)
    scores = {"base": {}, "tuned": {}}
    for number in range(25):
        level = draw.uniform(5, 40)
        scores["base"][number] = level + draw.gauss(0, 4)
        scores["tuned"][number] = level + 12 + draw.gauss(0, 8)
    pair = judge_pair("base", "tuned", scores, 1)
    verdict = reach_verdict([pair], "tuned", "base")
    assert verdict.answer == "better"
    assert reach_verdict([pair], "base", "tuned").answer == "worse"
    assert "similarity to the references" in verdict.why
    assert "would be seen" not in verdict.why


def test_few_questions_are_told_what_they_could_have_shown() -> None:
    scores = {"a": {number: 20.0 + number % 5 * 7 for number in range(10)}, "b": dict.fromkeys(range(10), 25.0)}
    why = reach_verdict([judge_pair("a", "b", scores, 1)], "a", "b").why
    assert "With 10 questions only a difference of about" in why
    few = {label: dict(list(by_question.items())[:4]) for label, by_question in scores.items()}
    assert "no test can reach 5 %" in reach_verdict([judge_pair("a", "b", few, 1)], "a", "b").why
