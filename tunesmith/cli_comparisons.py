"""Comparisons as text for people: the list, and one with its verdict, scores and report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from tunesmith.cli_rows import print_table
from tunesmith.cli_text import ago, one_line, seconds_between
from tunesmith.evaluation.records import Comparison, Interval, ModelScore, Rubric

STYLES = {"better": "bold green", "worse": "bold red", "no_evidence": "bold yellow"}
WORDS = {"better": "better", "worse": "worse", "no_evidence": "no evidence"}


def print_list(console: Console, comparisons: Sequence[Comparison], now: datetime | None = None) -> None:
    """Comparisons, one a line."""
    now = now or datetime.now(UTC)
    rows = [
        (
            each.comparison_id,
            f"{each.questions:,}",
            WORDS[each.verdict.answer],
            each.verdict.rests_on,
            ago(seconds_between(each.created_at, None, now) or 0.0),
            ", ".join(score.label for score in each.models),
        )
        for each in comparisons
    ]
    headings = ("comparison", "questions", "verdict", "by", "made", "models")
    print_table(console, headings, rows, [""] * len(rows))


def print_one(console: Console, comparison: Comparison) -> None:
    """The verdict and why, each model's scores, whether it was worth it, and last where the report lies."""
    verdict, human = comparison.verdict, comparison.human
    line = Text(f"{one_line(verdict.candidate)} against {one_line(verdict.baseline)}: ")
    line.append(WORDS[verdict.answer], style=STYLES[verdict.answer])
    console.print(line, soft_wrap=True)
    _say(console, verdict.why)
    columns = _columns(comparison)
    if columns:
        rows = [[one_line(score.label), *(_cell(score, column) for column in columns)] for score in comparison.models]
        print_table(console, ("model", *columns), rows, [""] * len(rows))
    if human and human.agreement:
        found = human.agreement
        kappa = "" if found.weighted_kappa is None else f", weighted kappa {found.weighted_kappa:.2f}"
        _say(
            console,
            f"Judge and people on {found.pairs:,} answers: {found.exact:.0%} of the scores equal, "
            f"{found.within_one:.0%} at most 1 apart, the judge {found.difference:+.2f}{kappa}.",
        )
    for note in comparison.notes:
        _say(console, f"Note: {note}")
    _say(console, f"Worth it: {comparison.worth_it.answer}")
    _say(console, f"Report: {comparison.report}")


def _columns(comparison: Comparison) -> list[str]:
    scores = comparison.models
    found = {
        "judge, of 15": any(one.rubric for one in scores),
        "people, of 15": any(one.human for one in scores),
        "chrF": any(one.similarity for one in scores),
        "held-out loss": any(one.heldout_loss is not None for one in scores),
        "memorised": any(one.memorised_share is not None for one in scores),
        "errors": any(one.errors for one in scores),
    }
    return [name for name, there in found.items() if there]


def _cell(score: ModelScore, column: str) -> str:
    if column == "judge, of 15":
        return _total(score.rubric)
    if column == "people, of 15":
        return _total(score.human)
    if column == "chrF":
        return _interval(score.similarity.chrf if score.similarity else None)
    if column == "held-out loss":
        return "–" if score.heldout_loss is None else f"{score.heldout_loss:.3f}"
    if column == "memorised":
        return "–" if score.memorised_share is None else f"{score.memorised_share:.0%}"
    return f"{score.errors:,}"


def _total(rubric: Rubric | None) -> str:
    return _interval(rubric.total if rubric else None)


def _interval(value: Interval | None) -> str:
    return "–" if value is None else f"{value.mean:.1f} ({value.low:.1f} to {value.high:.1f})"


def _say(console: Console, text: str) -> None:
    console.print(Text(one_line(text)), soft_wrap=True)
