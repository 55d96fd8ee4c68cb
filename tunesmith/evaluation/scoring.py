"""From answers to figures without a judge: each model's, and every pair's by likeness to the references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tunesmith.evaluation import metrics, statistics
from tunesmith.evaluation.records import Answer, Pair, Question, Similarity

# A difference of less than this many chrF points is a tie: a comma can make it.
TIE_POINTS = 1.0


@dataclass(frozen=True)
class Answered:
    """One model's answers with what was measured on them.

    Attributes:
        chrf, rouge_l: by question number, the mean over its repetitions; only where there are a reference and a
            reply.
    """

    label: str
    answers: list[Answer]
    chrf: dict[int, float]
    rouge_l: dict[int, float]

    @property
    def replies(self) -> list[Answer]:
        """The answers, errors left out."""
        return [answer for answer in self.answers if answer.reply is not None]

    def similarity(self, seed: int) -> Similarity | None:
        """Likeness to the references, None where there is nothing to compare."""
        if not self.chrf:
            return None
        return Similarity(
            chrf=statistics.mean_interval(list(self.chrf.values()), seed=seed),
            rouge_l=statistics.mean_interval(list(self.rouge_l.values()), seed=seed),
        )

    def stop_rate(self) -> float | None:
        return _mean([float(answer.finish_reason == "stop") for answer in self.replies])

    def mean_chars(self) -> float | None:
        return _mean([float(len(answer.reply or "")) for answer in self.replies])

    def latency_s(self) -> float | None:
        return _mean([answer.seconds for answer in self.replies])

    def tokens_per_s(self) -> float | None:
        return _mean(
            [answer.tokens / answer.seconds for answer in self.replies if answer.tokens and answer.seconds > 0]
        )


def read_answers(label: str, answers: Sequence[Answer], questions: Sequence[Question]) -> Answered:
    """Measure every reply that has a reference."""
    references = {question.question: question.reference for question in questions}

    def by_question(measure: Callable[[str, str], float]) -> dict[int, float]:
        found: dict[int, list[float]] = {}
        for answer in answers:
            reference = references[answer.question]
            if answer.reply is not None and reference is not None:
                found.setdefault(answer.question, []).append(measure(answer.reply, reference))
        return {number: sum(values) / len(values) for number, values in sorted(found.items())}

    return Answered(label, list(answers), by_question(metrics.chrf), by_question(metrics.rouge_l))


def compare_pairs(models: Sequence[Answered], seed: int) -> list[Pair]:
    """Every two models, question by question, with p-values corrected over the pairs."""
    scores = {model.label: model.chrf for model in models}
    return statistics.corrected([judge_pair(a.label, b.label, scores, seed) for a, b in combinations(models, 2)])


def judge_pair(a: str, b: str, scores: Mapping[str, Mapping[int, float]], seed: int) -> Pair:
    """Model `a` against `b` on the questions that both answered; the p-value is not corrected yet.

    Args:
        scores: chrF by question, by label.
    """
    both = sorted(scores[a].keys() & scores[b].keys())
    differences = [scores[a][number] - scores[b][number] for number in both]
    wins = sum(value >= TIE_POINTS for value in differences)
    losses = sum(value <= -TIE_POINTS for value in differences)
    ties = len(both) - wins - losses
    if not both:
        return Pair(
            a=a, b=b, judged_by="nothing", questions=0, wins=0, ties=0, losses=0, win_rate=None, p_value=None,
            position_consistency=None,
        )  # fmt: skip
    # What counts as a tie for the reader is no difference for the test either.
    counted = [value if abs(value) >= TIE_POINTS else 0.0 for value in differences]
    visible = statistics.smallest_visible(differences)
    return Pair(
        a=a,
        b=b,
        judged_by="similarity",
        questions=len(both),
        wins=wins,
        ties=ties,
        losses=losses,
        win_rate=statistics.mean_interval([_points(value) for value in counted], seed=seed),
        difference=statistics.mean_interval(differences, seed=seed),
        p_value=round(statistics.signed_rank_test(counted), 6),
        sign_p_value=round(statistics.sign_test(wins, losses), 6),
        smallest_visible=round(visible, 2) if visible is not None else None,
        position_consistency=None,
    )


def _points(difference: float) -> float:
    return 1.0 if difference > 0 else 0.0 if difference < 0 else 0.5


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
