"""Whether the candidate is better than the baseline, in words; "no evidence" unless the figures are clear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tunesmith.evaluation import statistics
from tunesmith.evaluation.judge_scoring import CHANCES
from tunesmith.evaluation.records import Interval, JudgeInfo, Pair, Verdict

Answer = Literal["better", "worse", "no_evidence"]
_UNITS = {"judge": "{:.1f} points of the scale from 1 to 5", "similarity": "{:.0f} chrF points"}


def reach_verdict(pairs: Sequence[Pair], candidate: str, baseline: str, judge: JudgeInfo | None = None) -> Verdict:
    """Whether the candidate's answers are better than the baseline's, on what the pair was judged by.

    better or worse only where the corrected p-value is below 0.05 and the interval of what it comes from leaves 0 out.

    Args:
        judge: who judged, where a judge did.
    """
    pair = turned(next(pair for pair in pairs if {pair.a, pair.b} == {candidate, baseline}), candidate)
    rivals = sum(one.p_value is not None for one in pairs)
    if pair.p_value is None:
        answer, why = "no_evidence", _nothing(judge)
    elif pair.judged_by == "judge":
        answer, why = _by_judge(pair, judge)
        why += _about_size(pair, rivals, statistics.LEVEL / CHANCES)
    else:
        answer, why = _by_similarity(pair)
        why += _about_size(pair, rivals, statistics.LEVEL)
    return Verdict(
        answer=answer,
        why=why,
        candidate=candidate,
        baseline=baseline,
        rests_on="nothing" if pair.p_value is None else pair.judged_by,
    )


def turned(pair: Pair, first: str) -> Pair:
    """The pair as seen from `first`."""
    if pair.a == first:
        return pair
    difference, rate, criteria = pair.difference, pair.win_rate, pair.criteria
    return pair.model_copy(
        update={
            "a": pair.b,
            "b": pair.a,
            "wins": pair.losses,
            "losses": pair.wins,
            "difference": difference and _negated(difference),
            "win_rate": rate and Interval(mean=1 - rate.mean, low=1 - rate.high, high=1 - rate.low),
            "criteria": criteria
            and [one.model_copy(update={"difference": _negated(one.difference)}) for one in criteria],
        }
    )


def _nothing(judge: JudgeInfo | None) -> str:
    if judge is not None:
        return (
            f"{judge.model} judged no question that both models answered, so there is nothing to conclude from: "
            "read the answers side by side."
        )
    return (
        "No question has a reference that both models answered, and there is no judge, so nothing was judged: "
        "read the answers side by side."
    )


def _by_similarity(pair: Pair) -> tuple[Answer, str]:
    difference = pair.difference
    assert difference is not None
    assert pair.p_value is not None
    clear = pair.p_value < statistics.LEVEL and _leaves_out_0(difference)
    answer: Answer = "no_evidence" if not clear else "better" if difference.mean > 0 else "worse"
    return answer, (
        f"Judged on similarity to the references (chrF), there being no judge. Over {pair.questions} questions "
        f"{pair.a} wins {pair.wins}, ties {pair.ties} and loses {pair.losses} against {pair.b}; the mean "
        f"difference is {difference.mean:+.1f} points (95 % interval {difference.low:+.1f} to {difference.high:+.1f}), "
        f"p = {pair.p_value:.3g}."
    )


def _by_judge(pair: Pair, judge: JudgeInfo | None) -> tuple[Answer, str]:
    said = [f"Judged by {judge.model if judge else 'a model'}, which saw no names."]
    if pair.win_rate is not None and pair.sign_p_value is not None:
        consistency = (
            f", it preferred the same answer in both orders in {pair.position_consistency:.0%} of the cases"
            if pair.position_consistency is not None
            else ""
        )
        said.append(
            f"Compared in both orders over {pair.wins + pair.ties + pair.losses} questions {pair.a} wins {pair.wins}, "
            f"ties {pair.ties} and loses {pair.losses} against {pair.b} (p = {pair.sign_p_value:.3g}){consistency}."
        )
    if pair.difference is not None and pair.score_p_value is not None:
        parts = ", ".join(
            f"{one.criterion.replace('_', ' ')} {one.difference.mean:+.2f} (p = {one.p_value:.2g})"
            for one in pair.criteria or []
        )
        said.append(
            f"Scored one by one it is {pair.difference.mean:+.2f} points of 5 (95 % interval "
            f"{pair.difference.low:+.2f} to {pair.difference.high:+.2f}, p = {pair.score_p_value:.3g}): {parts}."
        )
    said.append(f"Both together, and corrected for every pair that was compared: p = {pair.p_value:.3g}.")
    answer = _direction(pair)
    if pair.position_bias is not None:
        said.append(
            f"This judge goes by places: it prefers whichever answer stands {pair.position_bias}, so its scores are "
            "not counted, only what it prefers in both orders. Take another judge."
        )
    elif answer == "no_evidence" and _contradict(pair):
        said.append("Its scores and its comparisons contradict each other, so neither is taken as evidence.")
    return answer, " ".join(said)


def _direction(pair: Pair) -> Answer:
    assert pair.p_value is not None
    if pair.p_value >= statistics.LEVEL or (_contradict(pair) and pair.position_bias is None):
        return "no_evidence"
    by_sign = pair.sign_p_value if pair.sign_p_value is not None else 1.0
    by_score = pair.score_p_value if pair.score_p_value is not None and pair.position_bias is None else 1.0
    if by_sign <= by_score:
        return "better" if pair.wins > pair.losses else "worse"
    assert pair.difference is not None
    if not _leaves_out_0(pair.difference):
        return "no_evidence"
    return "better" if pair.difference.mean > 0 else "worse"


def _contradict(pair: Pair) -> bool:
    """Whether comparisons and scores are both clear, and point to different models."""
    if pair.sign_p_value is None or pair.score_p_value is None or pair.difference is None:
        return False
    clear = max(pair.sign_p_value, pair.score_p_value) < statistics.LEVEL
    return clear and (pair.wins > pair.losses) != (pair.difference.mean > 0)


def _about_size(pair: Pair, rivals: int, level: float) -> str:
    """What so few questions could have shown."""
    if pair.questions >= statistics.FEW_QUESTIONS:
        return ""
    if pair.questions < statistics.fewest_questions(level / max(1, rivals)):
        return (
            f" With {pair.questions} questions no test can reach 5 %, whatever the answers: "
            f"ask at least {statistics.FEW_QUESTIONS}."
        )
    if not pair.smallest_visible:
        return f" With {pair.questions} questions little can be seen: ask at least {statistics.FEW_QUESTIONS}."
    unit = _UNITS["judge" if pair.judged_by == "judge" else "similarity"].format(pair.smallest_visible)
    return (
        f" With {pair.questions} questions only a difference of about {unit} or more "
        f"would be seen in 4 cases of 5: ask at least {statistics.FEW_QUESTIONS}."
    )


def _leaves_out_0(value: Interval) -> bool:
    return value.low > 0 or value.high < 0


def _negated(value: Interval) -> Interval:
    # + 0.0 turns the negative zero into the plain one.
    return Interval(mean=-value.mean + 0.0, low=-value.high + 0.0, high=-value.low + 0.0)
