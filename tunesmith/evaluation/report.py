"""The report in Markdown. Answers are data: they stand in fences that they cannot close."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.records import Answer, Comparison, Interval, ModelScore, Question

_VERDICTS = {"better": "better", "worse": "worse", "no_evidence": "no evidence of a difference"}
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
COLUMNS = (
    "model",
    "chrF",
    "ROUGE-L",
    "held-out loss",
    "perplexity",
    "stop rate",
    "memorised",
    "characters",
    "latency",
    "tokens/s",
    "errors",
)


def markdown_report(
    comparison: Comparison,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    contestants: Sequence[Contestant],
) -> str:
    """Everything about a comparison as Markdown.

    Args:
        answers: by label.
    """
    return "\n".join(_lines(comparison, questions, answers, contestants)) + "\n"


def _lines(
    comparison: Comparison,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    contestants: Sequence[Contestant],
) -> Iterator[str]:
    verdict, worth = comparison.verdict, comparison.worth_it
    yield from (f"# Comparison {comparison.comparison_id}", "", comparison.created_at, "")
    yield from (f"**{_cell(headline(comparison))}**", "", _cell(verdict.why), "")
    yield from ("## Scores", "", _row(COLUMNS), _row(["---"] * len(COLUMNS)))
    for score in comparison.models:
        yield _row(score_cells(score))
    yield from ("", "Figures in brackets are 95 % bootstrap intervals over the questions.", "")
    yield from ("## Pairs", "")
    yield _row(("pair", "wins", "ties", "losses", "win rate", "chrF difference", "p"))
    yield _row(["---"] * 7)
    for pair in comparison.pairs:
        yield _row(
            (
                f"{pair.a} against {pair.b}",
                str(pair.wins),
                str(pair.ties),
                str(pair.losses),
                interval(pair.win_rate, "{:.0%}"),
                interval(pair.difference, "{:+.1f}"),
                number(pair.p_value, "{:.3g}"),
            )
        )
    yield from ("", f"## Was it worth it? {worth.answer.capitalize()}", "")
    yield from (f"- for: {_cell(text)}" for text in worth.in_favour)
    yield from (f"- against: {_cell(text)}" for text in worth.against)
    if comparison.notes:
        yield from ("", "## To know when reading this", "", *(f"- {_cell(note)}" for note in comparison.notes))
    yield from ("", "## Answers", "")
    for question in questions:
        yield from _side_by_side(question, answers)
    yield from ("## How it was made", "", "```json", provenance(comparison, contestants), "```")


def headline(comparison: Comparison) -> str:
    """The verdict in one line."""
    verdict = comparison.verdict
    return f"{verdict.candidate} against {verdict.baseline}: {_VERDICTS[verdict.answer]}"


def score_cells(score: ModelScore) -> list[str]:
    """A model's figures as text, one for each of `COLUMNS`."""
    similarity = score.similarity
    return [
        score.label,
        interval(similarity.chrf if similarity else None, "{:.1f}"),
        interval(similarity.rouge_l if similarity else None, "{:.2f}"),
        number(score.heldout_loss, "{:.3f}"),
        number(score.heldout.perplexity if score.heldout else None, "{:.2f}"),
        number(score.stop_rate, "{:.0%}"),
        number(score.memorised_share, "{:.0%}"),
        number(score.mean_chars, "{:.0f}"),
        number(score.latency_s, "{:.1f} s"),
        number(score.tokens_per_s, "{:.0f}"),
        str(score.errors),
    ]


def provenance(comparison: Comparison, contestants: Sequence[Contestant]) -> str:
    """Sampling, models with their recipes, datasets, versions and digests, as JSON."""
    lineage = comparison.lineage.model_dump(mode="json")
    recipes = {one.label: one.record.recipe for one in contestants if one.record}
    for model in lineage["models"]:
        model["recipe"] = recipes.get(model["label"])
    served = {score.label: {"model": score.model, "served": score.served} for score in comparison.models}
    content = {"sampling": comparison.sampling.model_dump(), "served": served, **lineage}
    return printable(json.dumps(content, ensure_ascii=False, indent=2))


def interval(value: Interval | None, form: str) -> str:
    """A mean with its interval, or a dash."""
    if value is None:
        return "–"
    return f"{form.format(value.mean)} [{form.format(value.low)}, {form.format(value.high)}]"


def number(value: float | None, form: str) -> str:
    """A number, or a dash."""
    return "–" if value is None else form.format(value)


def printable(text: str) -> str:
    """`text` without terminal codes and control characters, lines kept."""
    return _ANSI.sub("", text.replace("\r\n", "\n"))


def _side_by_side(question: Question, answers: Mapping[str, Sequence[Answer]]) -> Iterator[str]:
    yield from (f"### Question {question.question}", "", *_fenced(question.text))
    if question.reference is not None:
        yield from ("Reference:", "", *_fenced(question.reference))
    for label, given in answers.items():
        for answer in given:
            if answer.question != question.question:
                continue
            repeated = f", repetition {answer.repetition}" if answer.repetition > 1 else ""
            if answer.reply is None:
                yield from (f"{_cell(label)}{repeated}: no answer ({_cell(answer.error or '')})", "")
            else:
                cut = ", cut off at max_tokens" if answer.finish_reason == "length" else ""
                yield from (f"{_cell(label)}{repeated}{cut}:", "", *_fenced(answer.reply))


def _fenced(text: str) -> list[str]:
    """`text` in a fence longer than any run of backticks in it."""
    clean = printable(text)
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", clean, fence, ""]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """`text` on one line, with what Markdown would read as markup made harmless."""
    line = " ".join(printable(text).split())
    return re.sub(r"([\\|<>\[\]`*_#])", r"\\\1", line) if re.search(r"[\\|<>`*_#]|\]\(", line) else line
