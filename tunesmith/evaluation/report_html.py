"""The report as one HTML file: no script, no font, no picture from elsewhere. Everything that is shown is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.records import Answer, Comparison, Interval, ModelScore, Question, Rubric
from tunesmith.evaluation.report_answers import answers_html
from tunesmith.evaluation.report_figures import (
    COLUMNS,
    CRITERIA,
    NAMES,
    PAIR_COLUMNS,
    Scored,
    agreement_text,
    certainty,
    differences,
    main_pair,
    pair_cells,
    provenance,
    rubric_rows,
    score_cells,
    shown_pairs,
)
from tunesmith.evaluation.report_plots import Bar, bars, loss_plot, pair_forest, question_plot, win_bars
from tunesmith.evaluation.report_style import FILTER_STYLE, STYLE
from tunesmith.evaluation.report_text import headline, number, printable
from tunesmith.evaluation.training_data import loss_curve
from tunesmith.evaluation.worth_facts import AnswerFacts, answer_facts

# Nothing may be loaded or run, whatever an answer holds: a second wall behind the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_RECIPE = ("method", "rank", "alpha", "learning_rate", "epochs", "max_steps", "batch_size", "max_length", "seed")
_CHRF_NOTE = "0 to 100, with 95 % intervals. Long answers lose little by it."
_ROUGE_NOTE = "0 to 1, with 95 % intervals. Words too many count against an answer."
_NUMBERS_NOTE = "Of the numbers and codes in the references, those that the answers hold."


def html_report(
    comparison: Comparison,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    contestants: Sequence[Contestant],
    *,
    judged: Sequence[Scored] = (),
    human: Sequence[Scored] = (),
) -> str:
    """Everything about a comparison as one self-contained page.

    Args:
        answers: by label.
        judged: the judge's scores.
        human: people's scores, the latest of each.
    """
    facts = answer_facts(questions, answers, likeness=False)
    found = differences(comparison, questions, answers, judged, human)
    texts = {question.question: question.text for question in questions}
    worth, when = comparison.worth_it, comparison.created_at[:16].replace("T", " ")
    notes = "".join(f"<li>{_text(note)}</li>" for note in comparison.notes)
    scores = {name: given for name, given in (("judge", judged), ("people", human)) if given}
    parts = [
        f"<h1>{_text(f'Comparison {comparison.comparison_id} · {when} UTC')}</h1>",
        f'<div class="hero {comparison.verdict.answer}"><p class="verdict">{_text(headline(comparison))}</p>'
        f'<p class="answer"><b>Was it worth it?</b> {_text(worth.in_one_line or worth.answer.capitalize())}</p>'
        f"<p>{_text(certainty(comparison))}</p></div>",
        _tiles(comparison, facts),
        '<div class="plots">',
        *_plots(comparison, facts),
        *(loss_plot(one.label, loss_curve(one)) for one in contestants),
        question_plot(found, texts),
        "</div>",
        "<h2>Was it worth it?</h2>",
        _worth(comparison),
        "<h2>Scores</h2>",
        _scores(comparison, facts),
        _rubrics(comparison),
        "<h2>Pairs</h2>",
        _table(PAIR_COLUMNS, [pair_cells(pair) for pair in shown_pairs(comparison, comparison.pairs)]),
        f'<p class="soft">{_text(comparison.verdict.why)}</p>',
        f"<h2>To know when reading this</h2><ul>{notes}</ul>" if notes else "",
        "<h2>Answers side by side</h2>",
        answers_html(questions, answers, found, scores),
        "<h2>How it was made</h2>",
        _made(comparison, contestants),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY, quote=True)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(headline(comparison))}</title><style>{STYLE}{FILTER_STYLE}</style></head><body><main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main></body></html>\n"
    )


def _tiles(comparison: Comparison, facts: AnswerFacts) -> str:
    """The five figures a reader asks for first, the candidate's beside the baseline's."""
    verdict, pair = comparison.verdict, main_pair(comparison)
    by_label = {score.label: score for score in comparison.models}
    ours, theirs = by_label[verdict.candidate], by_label[verdict.baseline]
    tiles: list[tuple[str, str, str]] = []
    if pair is not None and pair.win_rate is not None:
        rate = pair.win_rate
        tiles.append((f"{rate.mean:.0%}", "win rate, ties half", f"95 %: {rate.low:.0%} to {rate.high:.0%}"))

    def both(name: str, get: Callable[[ModelScore], float | None], form: str, note: str = "") -> None:
        before, after = get(theirs), get(ours)
        if after is not None:
            shown = form.format(after) if before is None else f"{form.format(before)} → {form.format(after)}"
            tiles.append((shown, name, note))

    both("judge, 3 to 15", lambda one: one.rubric.total.mean if one.rubric else None, "{:.1f}")
    both("people, 3 to 15", lambda one: one.human.total.mean if one.human else None, "{:.1f}")
    likeness = [one.similarity.rouge_l.mean for one in (theirs, ours) if one.similarity]
    rouge = "ROUGE-L " + " → ".join(f"{value:.2f}" for value in likeness)
    both("similarity, chrF", lambda one: one.similarity.chrf.mean if one.similarity else None, "{:.1f}", rouge)
    both("held-out loss", lambda one: one.heldout_loss, "{:.2f}", "lower is better")
    both("memorised share", lambda one: one.memorised_share, "{:.0%}", "of the words, long quotations")
    recalled = {label: one.share for label, one in facts.recall.items()}
    both("numbers right", lambda one: recalled.get(one.label), "{:.0%}", "numbers and codes of the references")
    if comparison.worth_it.cost:
        training = next((line for line in comparison.worth_it.cost if line.startswith("Training: ")), "")
        if training:
            tiles.append(
                (training.removeprefix("Training: ").split(" on ")[0], "of training", comparison.worth_it.cost[0])
            )
    body = "".join(
        f'<div class="tile"><b>{_text(value)}</b><span>{_text(name)}</span><span>{_text(note)}</span></div>'
        for value, name, note in tiles
    )
    return f'<div class="tiles">{body}</div><p class="soft">{_text(f"{theirs.label} → {ours.label}")}</p>'


def _plots(comparison: Comparison, facts: AnswerFacts) -> list[str]:
    colour = {score.label: f"var(--m{place % 8})" for place, score in enumerate(comparison.models)}

    def rows(
        get: Callable[[ModelScore], float | None], form: str, spread: Callable[[ModelScore], Interval | None]
    ) -> list[Bar]:
        found: list[Bar] = []
        for one in comparison.models:
            value = get(one)
            if value is not None:
                found.append(Bar(one.label, value, form.format(value), colour[one.label], spread(one)))
        return found

    def none(_: ModelScore) -> None:
        return None

    chrf = rows(
        lambda one: one.similarity.chrf.mean if one.similarity else None,
        "{:.1f}",
        lambda one: one.similarity.chrf if one.similarity else None,
    )
    rouge = rows(
        lambda one: one.similarity.rouge_l.mean if one.similarity else None,
        "{:.2f}",
        lambda one: one.similarity.rouge_l if one.similarity else None,
    )
    loss = rows(lambda one: one.heldout_loss, "{:.2f}", none)
    copied = rows(lambda one: one.memorised_share, "{:.1%}", none)
    recalled = rows(lambda one: facts.recall[one.label].share if one.label in facts.recall else None, "{:.0%}", none)
    pairs = shown_pairs(comparison, comparison.pairs)
    human_pairs = shown_pairs(comparison, comparison.human.pairs) if comparison.human else []
    judged_by = "judge" if comparison.judge else "similarity to the references"
    forest = pair_forest(pairs, title=f"Mean difference, {_unit(comparison)}")
    copied_note = "Words inside long quotations of training answers."
    return [
        _rubric_bars(comparison, colour),
        win_bars(pairs, title=f"Who wins, by {judged_by}"),
        win_bars(human_pairs, title="Who wins, by people"),
        forest if len(pairs) > 1 else "",
        bars("Similarity to the references (chrF)", chrf, high=_top(chrf, 10), form="{:.0f}", note=_CHRF_NOTE),
        bars("Similarity to the references (ROUGE-L)", rouge, high=_top(rouge, 0.2), form="{:.1f}", note=_ROUGE_NOTE),
        bars("Held-out loss", loss, high=_top(loss, 1), form="{:.1f}", note="Nats a token; lower is better."),
        bars("Memorised share", copied, high=_top(copied, 0.1), form="{:.0%}", note=copied_note),
        bars("Numbers and codes right", recalled, high=1.0, form="{:.0%}", note=_NUMBERS_NOTE),
    ]


def _top(rows: Sequence[Bar], least: float) -> float:
    """Where a scale from 0 ends: a little behind the longest bar."""
    return 1.08 * max([least, *(bar.spread.high if bar.spread else bar.value for bar in rows)])


def _unit(comparison: Comparison) -> str:
    return "points of the rubric" if comparison.judge else "chrF points"


def _rubric_bars(comparison: Comparison, colour: Mapping[str, str]) -> str:
    found: list[Bar] = []

    def add(label: str, rubric: Rubric | None, who: str, *, hollow: bool) -> None:
        if rubric is not None:
            text = f"{rubric.total.mean:.1f} {who}"
            found.append(Bar(label, rubric.total.mean, text, colour[label], rubric.total, hollow))

    for score in comparison.models:
        add(score.label, score.rubric, "J", hollow=False)
        add(score.label, score.human, "P", hollow=True)
    note = "3 to 15, with 95 % intervals. Filled (J): the judge's; outlined (P): people's."
    return bars("Scores by the rubric", found, low=3, high=15, form="{:.0f}", note=note)


def _scores(comparison: Comparison, facts: AnswerFacts) -> str:
    sampling = comparison.sampling
    caption = (
        f"{comparison.questions} questions, {sampling.repetitions} repetition{'s' * (sampling.repetitions > 1)}, "
        f"temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens, seed {sampling.seed}. "
        f"In brackets: 95 % bootstrap interval over the questions. {_NUMBERS_NOTE} "
        "Memorised: share of the words in long quotations of training answers."
    )
    rows = [score_cells(score, facts) for score in comparison.models]
    served = {score.label: score.served for score in comparison.models}
    return f'{_table(COLUMNS, rows, served)}<p class="soft">{_text(caption)}</p>'


def _rubrics(comparison: Comparison) -> str:
    rows = rubric_rows(comparison)
    if not rows:
        return ""
    head = ("model", "scored by", *(NAMES.get(name, name) for name in CRITERIA))
    judge, human, said = comparison.judge, comparison.human, [agreement_text(comparison)]
    if judge is not None:
        consistency = number(judge.position_consistency, "{:.0%}")
        said.append(
            f"Judge: {judge.model}; {judge.asked} judgements, {judge.failed} failed; in {consistency} of the pairs it "
            "preferred the same answer in both orders."
        )
    if human is not None:
        said.append(
            f"People: {human.scored} answers to {human.questions} questions scored, {human.blind} of them blind."
        )
    said.append("Criteria 1 to 5, total 3 to 15.")
    body = [[label, who, *cells] for label, who, cells in rows]
    about = _text(" ".join(filter(None, said)))
    return f"<h2>Scores by judge and people</h2>{_table(head, body)}<p class='soft'>{about}</p>"


def _worth(comparison: Comparison) -> str:
    def listing(title: str, texts: Sequence[str]) -> str:
        entries = "".join(f"<li>{_text(text)}</li>" for text in texts) or "<li>Nothing in these figures.</li>"
        return f"<div><h3>{title}</h3><ul>{entries}</ul></div>"

    worth = comparison.worth_it
    cost = listing("What it cost", worth.cost) if worth.cost else ""
    return (
        f'<div class="worth">{listing("For fine-tuning", worth.in_favour)}'
        f"{listing('Against, or for retrieval or prompting', worth.against)}{cost}</div>"
    )


def _made(comparison: Comparison, contestants: Sequence[Contestant]) -> str:
    """Recipe and lineage to read, and all of it as JSON to copy."""
    lineage = comparison.lineage
    rows: list[tuple[str, str]] = [(score.label, f"{score.model} · {score.served}") for score in comparison.models]
    for one in contestants:
        if one.record is not None:
            recipe = one.record.recipe
            shown = ", ".join(f"{key} {recipe[key]}" for key in _RECIPE if recipe.get(key) is not None)
            record = one.record
            chain = (record.base_model, record.dataset_id, record.run_id, record.model_id)
            rows.append((f"{one.label}: recipe", shown))
            rows.append((f"{one.label}: lineage", " → ".join(str(part) for part in chain if part)))
    for dataset in lineage.datasets:
        parents = " ← ".join([str(dataset.get("dataset_id")), *map(str, dataset.get("parents") or [])])
        rows.append(("dataset", f"{parents}, {dataset.get('rows')} rows, sha256 {dataset.get('sha256')}"))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in lineage.versions.items())))
    listed = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows)
    return (
        f'<div class="fold"><dl>{listed}</dl><details><summary class="soft">All of it as JSON: recipes, digests, '
        "sampling</summary>"
        f"<pre>{_text(provenance(comparison, contestants))}</pre></details></div>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], under: Mapping[str, str] | None = None) -> str:
    """A table; `under` is written small beneath the first cell of a row that begins with its key."""
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = ""
    for first, *rest in rows:
        small = f"<br><small>{_text(under[first])}</small>" if under and first in under else ""
        body += f"<tr><td><strong>{_text(first)}</strong>{small}</td>"
        body += "".join(f"<td>{_with_interval(cell)}</td>" for cell in rest) + "</tr>"
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _with_interval(cell: str) -> str:
    mean, found, rest = cell.partition(" [")
    return f"{_text(mean)}<br><small>[{_text(rest)}</small>" if found else _text(cell)


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
