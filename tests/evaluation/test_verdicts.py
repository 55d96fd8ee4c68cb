from __future__ import annotations

from typing import Any

import pytest

from tunesmith.evaluation.judge_scoring import judged_pairs, rubric, scores_by_question
from tunesmith.evaluation.judgements import JudgedAnswer, JudgedPair
from tunesmith.evaluation.records import JudgeInfo, Verdict
from tunesmith.evaluation.verdicts import reach_verdict

JUDGE = JudgeInfo(model="j", base_url=None, asked=1, failed=0, tokens=None, position_consistency=None)
A, B, TIE = ("a", "a"), ("b", "b"), ("tie", "tie")


def answers(label: str, values: list[tuple[int, int, int]]) -> list[JudgedAnswer]:
    return [
        JudgedAnswer(
            label=label, question=number, repetition=1, domain_knowledge=x, response_style=y, accuracy=z, reason=""
        )
        for number, (x, y, z) in enumerate(values, start=1)
    ]


def compared(winners: list[tuple[Any, Any]], a: str = "base", b: str = "tuned") -> list[JudgedPair]:
    return [
        JudgedPair(a=a, b=b, question=number, repetition=1, a_first=first, b_first=second, reasons=["", ""])
        for number, (first, second) in enumerate(winners, start=1)
    ]


def verdict(
    scored: list[JudgedAnswer], pairs: list[JudgedPair], labels: tuple[str, ...] = ("base", "tuned")
) -> Verdict:
    found = judged_pairs(labels, scores_by_question(scored), pairs, 1)
    return reach_verdict(found, "tuned", "base", JUDGE)


FLAT = [(3, 3, 3), (4, 3, 2), (2, 3, 4), (3, 4, 3)] * 5


def test_comparisons_alone_can_decide_and_scores_alone_can() -> None:
    same = answers("base", FLAT) + answers("tuned", FLAT)
    assert verdict(same, compared([B] * 15 + [TIE] * 5)).answer == "better"
    assert verdict(same, compared([A] * 15 + [TIE] * 5)).answer == "worse"
    higher = answers("base", FLAT) + answers("tuned", [(x + 1, y, z + 1) for x, y, z in FLAT])
    assert verdict(higher, compared([TIE] * 20)).answer == "better"
    assert verdict(higher, []).answer == "better"
    assert verdict([], compared([B] * 20)).answer == "better"


def test_scores_and_comparisons_that_contradict_each_other_are_no_evidence() -> None:
    higher = answers("base", FLAT) + answers("tuned", [(x + 1, y, z + 1) for x, y, z in FLAT])
    found = verdict(higher, compared([A] * 18 + [B] * 2))
    assert found.answer == "no_evidence"
    assert "contradict each other" in found.why


def test_a_winner_in_one_order_only_is_a_tie() -> None:
    pairs = compared([("a", "b"), ("b", "tie"), ("tie", "a"), ("b", "b")])
    (pair,) = judged_pairs(("base", "tuned"), {}, pairs, 1)
    assert (pair.wins, pair.ties, pair.losses, pair.position_consistency) == (0, 3, 1, 0.25)
    assert pair.win_rate is not None
    assert pair.win_rate.mean == pytest.approx(3 / 8)


def test_an_order_that_was_never_judged_counts_nothing() -> None:
    (pair,) = judged_pairs(("base", "tuned"), {}, compared([("b", None), (None, "b"), ("b", "b")]), 1)
    assert (pair.questions, pair.ties, pair.losses) == (1, 0, 1)


def test_a_judge_that_goes_by_places_is_believed_only_where_both_orders_agree() -> None:
    higher = answers("base", FLAT) + answers("tuned", [(x + 1, y, z + 1) for x, y, z in FLAT])
    found = verdict(higher, compared([("a", "b")] * 20))
    assert found.answer == "no_evidence"
    assert "whichever answer stands first" in found.why
    assert "whichever answer stands second" in verdict(higher, compared([("b", "a")] * 20)).why
    # Unsure, but without a preference for a place: the scores stand.
    assert verdict(higher, compared([("a", "b"), ("b", "a")] * 10)).answer == "better"


def test_criteria_are_corrected_over_the_three_and_pairs_over_all_pairs() -> None:
    scored = answers("base", FLAT) + answers("tuned", [(x, min(5, y + 1), z) for x, y, z in FLAT])
    (pair,) = judged_pairs(("base", "tuned"), scores_by_question(scored), [], 1)
    assert pair.criteria is not None
    knowledge, style, accuracy = pair.criteria
    assert (knowledge.p_value, accuracy.p_value) == (1, 1)
    assert style.p_value == pytest.approx(3 * 2 / 2**20, abs=1e-6)
    assert style.difference.mean == -1
    three = judged_pairs(("base", "tuned", "third"), {}, compared([B] * 9) + compared([TIE] * 9, "base", "third"), 1)
    assert [pair.judged_by for pair in three] == ["judge", "judge", "nothing"]
    assert three[0].p_value == pytest.approx(2 * 2 * 2 / 2**9, abs=1e-5)


def test_a_rubric_has_its_total_and_the_questions_it_is_over() -> None:
    found = rubric(scores_by_question(answers("base", [(1, 2, 3), (3, 4, 5)]))["base"], 1)
    assert found is not None
    assert (found.domain_knowledge.mean, found.response_style.mean, found.accuracy.mean) == (2, 3, 4)
    assert (found.total.mean, found.questions) == (9, 2)
    assert rubric(None, 1) is None


def test_few_judged_questions_are_told_what_they_could_have_shown() -> None:
    few = answers("base", FLAT[:10]) + answers("tuned", [(5 - x, y, z) for x, y, z in FLAT[:10]])
    why = verdict(few, compared([TIE] * 10)).why
    assert "With 10 questions only a difference of about" in why
    assert "points of the scale from 1 to 5" in why
    assert "no test can reach 5 %" in verdict([], compared([B] * 6)).why
    assert verdict([], compared([B] * 6)).answer == "no_evidence"


def test_nothing_judged_is_said() -> None:
    found = verdict([], [])
    assert (found.answer, found.rests_on) == ("no_evidence", "nothing")
    assert "j judged no question" in found.why
