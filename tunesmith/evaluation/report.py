"""The report in Markdown. Answers are data: they stand in fences that they cannot close."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.records import Answer, Comparison, Question
from tunesmith.evaluation.report_figures import (
    COLUMNS,
    CRITERIA,
    NAMES,
    PAIR_COLUMNS,
    Differences,
    Scored,
    agreement_text,
    by_question_and_label,
    certainty,
    differences,
    pair_cells,
    provenance,
    rubric_rows,
    score_cells,
    shown_pairs,
)
from tunesmith.evaluation.report_text import cut, headline, printable, room_for_answers
from tunesmith.evaluation.worth_facts import answer_facts


def markdown_report(
    comparison: Comparison,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    contestants: Sequence[Contestant],
    *,
    judged: Sequence[Scored] = (),
    human: Sequence[Scored] = (),
) -> str:
    """Everything about a comparison as Markdown.

    Args:
        answers: by label.
        judged: the judge's scores.
        human: people's scores, the latest of each.
    """
    found = differences(comparison, questions, answers, judged, human)
    parts = [
        *_summary(comparison, questions, answers),
        *_worth(comparison),
        *_answers(questions, answers, found, {"judge": judged, "people": human}),
        *("## How it was made", "", "```json", provenance(comparison, contestants), "```"),
    ]
    return "\n".join(parts) + "\n"


def _summary(
    comparison: Comparison, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]
) -> Iterator[str]:
    verdict, worth = comparison.verdict, comparison.worth_it
    yield from (f"# Comparison {comparison.comparison_id}", "", comparison.created_at, "")
    yield from (f"**{_cell(headline(comparison))}**", "")
    yield from (f"**Was it worth it?** {_cell(worth.in_one_line or worth.answer.capitalize())}", "")
    if said := certainty(comparison):
        yield from (_cell(said), "")
    yield from (_cell(verdict.why), "", "## Scores", "")
    facts = answer_facts(questions, answers, likeness=False)
    yield from _table(COLUMNS, [score_cells(score, facts) for score in comparison.models])
    yield from ("", "Figures in brackets are 95 % bootstrap intervals over the questions. Numbers right: those numbers")
    yield from ("and codes of the references that the answers hold.", "")
    rubrics = [[label, who, *cells] for label, who, cells in rubric_rows(comparison)]
    if rubrics:
        yield from ("## Scores by judge and people", "")
        yield from _table(("model", "scored by", *(NAMES.get(name, name) for name in CRITERIA)), rubrics)
        yield from ("", _cell(f"{agreement_text(comparison)} Criteria 1 to 5, total 3 to 15.".strip()), "")
    yield from ("## Pairs", "")
    yield from _table(PAIR_COLUMNS, [pair_cells(pair) for pair in shown_pairs(comparison, comparison.pairs)])
    if comparison.human and comparison.human.pairs:
        yield from ("", "By people:", "")
        yield from _table(PAIR_COLUMNS, [pair_cells(pair) for pair in comparison.human.pairs])


def _worth(comparison: Comparison) -> Iterator[str]:
    worth = comparison.worth_it
    yield from ("", f"## Was it worth it? {worth.answer.capitalize()}", "")
    yield from (f"- for: {_cell(text)}" for text in worth.in_favour)
    yield from (f"- against: {_cell(text)}" for text in worth.against)
    yield from (f"- cost: {_cell(text)}" for text in worth.cost)
    if comparison.notes:
        yield from ("", "## To know when reading this", "", *(f"- {_cell(note)}" for note in comparison.notes))


def _answers(
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    found: Differences,
    scores: Mapping[str, Sequence[Scored]],
) -> Iterator[str]:
    by_question, noted = by_question_and_label(answers, scores)
    room = room_for_answers(sum(map(len, by_question.values())))
    yield from ("", "## Answers", "")
    for question in questions:
        value = found.by_question.get(question.question)
        ahead = f" ({_cell(found.candidate)} {value:+.1f} {found.unit})" if value is not None else ""
        yield from (f"### Question {question.question}{ahead}", "", *_fenced(question.text, room))
        if question.reference is not None:
            place = f" ({_cell(question.source)})" if question.source else ""
            yield from (f"Reference{place}:", "", *_fenced(question.reference, room))
        for answer in by_question.get(question.question, ()):
            given_scores = noted.get((answer.question, answer.label), [])
            yield from _answer(answer, room, "; ".join(given_scores))


def _answer(answer: Answer, room: int, scores: str) -> Iterator[str]:
    repeated = f", repetition {answer.repetition}" if answer.repetition > 1 else ""
    if answer.reply is None:
        yield from (f"{_cell(answer.label)}{repeated}: no answer ({_cell(answer.error or '')})", "")
        return
    ended = ", cut off at max_tokens" if answer.finish_reason == "length" else ""
    shown = f" ({scores})" if scores else ""
    yield from (f"{_cell(answer.label)}{repeated}{ended}{shown}:", "", *_fenced(answer.reply, room))


def _fenced(text: str, room: int) -> list[str]:
    """`text` in a fence longer than any run of backticks in it."""
    clean, left_out = cut(printable(text), room)
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    more = [f"({left_out:,} characters more are in answers.jsonl.)", ""] if left_out else []
    return [f"{fence}text", clean, fence, "", *more]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from (_row(head), _row(["---"] * len(head)), *map(_row, rows))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """`text` on one line, with what Markdown would read as markup made harmless."""
    line = " ".join(printable(text).split())
    return re.sub(r"([\\|<>\[\]`*_#])", r"\\\1", line) if re.search(r"[\\|<>`*_#]|\]\(", line) else line
