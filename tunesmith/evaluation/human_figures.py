"""What people's scores say: means with intervals, who is preferred, how far a judge agrees with them, a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tunesmith.evaluation import statistics
from tunesmith.evaluation.agreement import Values, agree
from tunesmith.evaluation.human import HumanScore
from tunesmith.evaluation.judgements import JudgedAnswer
from tunesmith.evaluation.records import (
    Agreement,
    CriterionDifference,
    HumanInfo,
    Interval,
    Pair,
    Rubric,
    Verdict,
)

CRITERIA = ("domain_knowledge", "response_style", "accuracy")
# People decide from so many questions on, or from all that there are, where these are fewer.
DECIDING_QUESTIONS = statistics.FEW_QUESTIONS
_Place = tuple[int, str]


@dataclass(frozen=True)
class People:
    """What people say, and what the comparison's verdict is now.

    Attributes:
        rubrics: by label; of models that nobody scored there is none.
        verdict: theirs where they decide, else the one that was reached without them.
    """

    info: HumanInfo
    rubrics: Mapping[str, Rubric]
    verdict: Verdict


def hear_people(
    scores: Sequence[HumanScore],
    labels: Sequence[str],
    *,
    answered: Mapping[str, set[int]],
    judged: Sequence[JudgedAnswer],
    otherwise: Verdict,
    seed: int,
) -> People | None:
    """Conclude from people's scores; None without any.

    People decide the comparison's verdict once they scored both its models on 20 questions, or on all that both
    answered where these are fewer. Over a judge they do so only if no name was shown to them: who sees names is
    biased, and a judge does not. The rule looks at how much was scored and how, never at what came out.

    Args:
        answered: by label, the numbers of the questions that it answered.
        judged: the judge's scores; empty without a judge. Those of first repetitions are looked at, as people see
            these.
        otherwise: the verdict without people.
        seed: of the intervals.
    """
    if not scores:
        return None
    by_model = {label: [one for one in scores if one.label == label] for label in labels}
    pairs = _pairs(by_model, seed)
    candidate, baseline = otherwise.candidate, otherwise.baseline
    pair = next((one for one in pairs if {one.a, one.b} == {candidate, baseline}), None)
    both_answered = len(answered[candidate] & answered[baseline])
    blind = {(one.question, one.label): True for one in scores}
    for one in scores:
        blind[one.question, one.label] &= one.blind
    hidden = all(blind[one.question, one.label] for one in scores if one.label in (candidate, baseline))
    verdict = decides = None
    if pair is not None and pair.questions:
        pair = pair.model_copy(update={"criteria": _criteria(by_model[pair.a], by_model[pair.b], seed)})
        pairs = [pair if {one.a, one.b} == {candidate, baseline} else one for one in pairs]
        verdict = _verdict(pair, candidate, baseline, both_answered, hidden=hidden)
        decides = pair.questions >= min(DECIDING_QUESTIONS, both_answered) and (hidden or otherwise.rests_on != "judge")
    info = HumanInfo(
        scored=len(blind),
        questions=len({question for question, _ in blind}),
        people=len({one.by for one in scores}),
        blind=sum(blind.values()),
        last_at=max(one.at for one in scores),
        agreement=_with_judge(scores, judged),
        between_people=_between(scores),
        pairs=pairs,
        verdict=verdict,
        otherwise=otherwise,
        decides=bool(decides),
    )
    rubrics = {label: _rubric(given, seed) for label, given in by_model.items() if given}
    return People(info, rubrics, verdict if verdict and decides else otherwise)


def about_people(info: HumanInfo) -> list[str]:
    """What a reader must know of the scores by people: what those say who do not decide, and why they do not."""
    said = {"better": "better", "worse": "worse", "no_evidence": "no evidence"}
    notes = []
    other = info.otherwise
    if info.verdict is None:
        notes.append("People scored no question of both models that the verdict is about.")
    elif info.decides and other is not None and other.rests_on != "nothing":
        who = "the judge" if other.rests_on == "judge" else other.rests_on
        notes.append(f"People decide here. By {who} alone the verdict is: {said[other.answer]}. {other.why}")
    elif not info.decides:
        why = (
            "names were shown to them, and the judge saw none: score on a sheet (tunesmith score-sheet)"
            if other is not None and other.rests_on == "judge" and info.blind < info.scored
            else f"for that, {DECIDING_QUESTIONS} questions are to be scored, or all that both answered"
        )
        notes.append(
            f"People alone say: {said[info.verdict.answer]}. {info.verdict.why} They do not decide the verdict: {why}."
        )
    if info.blind < info.scored:
        named = info.scored - info.blind
        notes.append(f"People saw the model's name with {named} of {_count(info.scored, 'scored answer')}.")
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _rubric(given: Sequence[HumanScore], seed: int) -> Rubric:
    """Means over questions; where several people scored an answer, of their mean."""
    questions = sorted({one.question for one in given})
    each = [_mean_values([one.values for one in given if one.question == question]) for question in questions]

    def over(values: Sequence[float]) -> Interval:
        return statistics.mean_interval(values, seed=seed)

    first, second, third = (over([values[place] for values in each]) for place in range(3))
    return Rubric(
        domain_knowledge=first,
        response_style=second,
        accuracy=third,
        total=over([sum(values) for values in each]),
        questions=len(questions),
    )


def _pairs(by_model: Mapping[str, Sequence[HumanScore]], seed: int) -> list[Pair]:
    """Every two models that were scored, p-values corrected over the pairs."""
    pairs = [
        _pair(a, b, _differences(by_model[a], by_model[b]), seed)
        for a, b in combinations(by_model, 2)
        if by_model[a] and by_model[b]
    ]
    tested = [index for index, pair in enumerate(pairs) if pair.p_value is not None]
    corrected = statistics.holm([pairs[index].p_value or 0.0 for index in tested])
    for index, p_value in zip(tested, corrected, strict=True):
        pairs[index] = pairs[index].model_copy(update={"p_value": round(p_value, 6)})
    return pairs


def _pair(a: str, b: str, differences: Mapping[int, Values], seed: int) -> Pair:
    """`a` against `b`: on a question the higher total wins. The p-value is not corrected yet."""
    # Rounded, as thirds do not add up exactly, and equal differences must share a rank.
    points = [round(sum(values) / 3, 9) for values in differences.values()]
    if not points:
        return Pair(
            a=a, b=b, judged_by="nothing", questions=0, wins=0, ties=0, losses=0, win_rate=None, p_value=None,
            position_consistency=None,
        )  # fmt: skip
    wins, losses = sum(value > 0 for value in points), sum(value < 0 for value in points)
    p_value, visible = statistics.signed_rank_test(points), statistics.smallest_visible(points)
    shares = [1.0 if value > 0 else 0.0 if value < 0 else 0.5 for value in points]
    return Pair(
        a=a,
        b=b,
        judged_by="people",
        questions=len(points),
        wins=wins,
        ties=len(points) - wins - losses,
        losses=losses,
        win_rate=statistics.mean_interval(shares, seed=seed),
        difference=statistics.mean_interval(points, seed=seed),
        p_value=round(p_value, 6),
        sign_p_value=round(statistics.sign_test(wins, losses), 6),
        score_p_value=round(p_value, 6),
        smallest_visible=round(visible, 2) if visible is not None else None,
        position_consistency=None,
    )


def _differences(ours: Sequence[HumanScore], theirs: Sequence[HumanScore]) -> dict[int, Values]:
    """By question, how much higher our three scores are, in the mean of those people who scored both answers.

    Whoever scored one of them only is left out: that person may be stricter than the one who scored the other.
    """
    other = {(one.question, one.by): one.values for one in theirs}
    found: dict[int, list[Values]] = {}
    for one in ours:
        values = other.get((one.question, one.by))
        if values is not None:
            gaps = [float(x - y) for x, y in zip(one.values, values, strict=True)]
            found.setdefault(one.question, []).append((gaps[0], gaps[1], gaps[2]))
    return {question: _mean_values(found[question]) for question in sorted(found)}


def _criteria(ours: Sequence[HumanScore], theirs: Sequence[HumanScore], seed: int) -> list[CriterionDifference]:
    differences = list(_differences(ours, theirs).values())
    each = [[values[place] for values in differences] for place in range(3)]
    corrected = statistics.holm([statistics.signed_rank_test(values) for values in each])
    return [
        CriterionDifference.model_validate(
            {
                "criterion": criterion,
                "difference": statistics.mean_interval(values, seed=seed),
                "p_value": round(p_value, 6),
            }
        )
        for criterion, values, p_value in zip(CRITERIA, each, corrected, strict=True)
    ]


def _verdict(pair: Pair, candidate: str, baseline: str, both_answered: int, *, hidden: bool) -> Verdict:
    assert pair.difference is not None
    assert pair.p_value is not None
    turn = pair.a != candidate
    mean, low, high = pair.difference.mean, pair.difference.low, pair.difference.high
    wins, losses = pair.wins, pair.losses
    if turn:
        # + 0.0 turns the negative zero into the plain one.
        mean, low, high, wins, losses = -mean + 0.0, -high + 0.0, -low + 0.0, losses, wins
    clear = pair.p_value < statistics.LEVEL and (low > 0 or high < 0)
    names = "without seeing which model had answered" if hidden else "seeing which model had answered"
    asked = f"{pair.questions} of the {both_answered} questions" if pair.questions < both_answered else "all questions"
    why = (
        f"Scored by people, {names}, on {asked}: {candidate} wins {wins}, ties {pair.ties} and loses {losses} against "
        f"{baseline}; the mean difference is {mean:+.2f} points of 5 (95 % interval {low:+.2f} to {high:+.2f}), "
        f"p = {pair.p_value:.3g}."
    )
    return Verdict(
        answer="no_evidence" if not clear else "better" if mean > 0 else "worse",
        why=why + _about_size(pair),
        candidate=candidate,
        baseline=baseline,
        rests_on="people",
    )


def _about_size(pair: Pair) -> str:
    """What so few questions could have shown."""
    if pair.questions >= statistics.FEW_QUESTIONS:
        return ""
    if pair.questions < statistics.fewest_questions():
        return f" With {_count(pair.questions, 'scored question')} no test can reach 5 %, whatever the scores."
    if not pair.smallest_visible:
        return f" With {_count(pair.questions, 'scored question')} little can be seen."
    return (
        f" With {pair.questions} scored questions only a difference of about {pair.smallest_visible:.1f} points or "
        "more would be seen in 4 cases of 5."
    )


def _with_judge(scores: Sequence[HumanScore], judged: Sequence[JudgedAnswer]) -> Agreement | None:
    by_judge = {
        (one.question, one.label): (one.domain_knowledge, one.response_style, one.accuracy)
        for one in judged
        if one.repetition == 1
    }
    places = [one for one in scores if (one.question, one.label) in by_judge]
    return agree([(by_judge[one.question, one.label], one.values) for one in places])


def _between(scores: Sequence[HumanScore]) -> Agreement | None:
    """Every two people who scored the same answer."""
    by_place: dict[_Place, list[HumanScore]] = {}
    for one in scores:
        by_place.setdefault((one.question, one.label), []).append(one)
    return agree([(a.values, b.values) for given in by_place.values() for a, b in combinations(given, 2)])


def _mean_values(values: Sequence[Values]) -> Values:
    first, second, third = (round(sum(each) / len(values), 9) for each in zip(*values, strict=True))
    return first, second, third
