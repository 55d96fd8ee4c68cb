"""The report as one HTML file: no script, no font, no picture from elsewhere. Everything that is shown is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tunesmith.evaluation.contestants import Contestant
from tunesmith.evaluation.records import Answer, Comparison, Question
from tunesmith.evaluation.report import COLUMNS, headline, interval, number, printable, provenance, score_cells
from tunesmith.evaluation.report_plots import loss_plot, score_bars, win_bars
from tunesmith.evaluation.training_data import loss_curve

# Nothing may be loaded or run, whatever an answer holds: a second wall behind the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #22262b; --soft: #6a7078; --line: #e2ded5; --card: #fff;
  --accent: #2f6f73; --good: #2d7d46; --bad: #b3402f; --plain: #8a6d1f; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191c; --ink: #e6e4df; --soft: #9aa0a8; --line: #33373d;
  --card: #1f2226; --accent: #7cc4c7; --good: #7fce97; --bad: #ef8d7d; --plain: #dcbf6a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, "Noto Sans CJK SC",
  "PingFang SC", "Microsoft YaHei", sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.15rem; font-weight: 600; color: var(--soft); margin: 0; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .9rem; }
.verdict { font-size: 1.9rem; line-height: 1.25; font-weight: 650; margin: .3rem 0 .7rem; }
.better { color: var(--good); } .worse { color: var(--bad); } .no_evidence { color: var(--plain); }
.why { max-width: 52rem; margin: 0; }
.soft { color: var(--soft); font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
th { color: var(--soft); font-weight: 550; }
th { vertical-align: bottom; white-space: normal; } td small { color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.2rem; margin-top: 1.2rem; }
figure, article, .worth { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 0;
  padding: 1rem 1.2rem; }
figcaption { font-size: .88rem; color: var(--soft); margin-bottom: .6rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-size: 13px; } svg .soft { fill: var(--soft); font-size: 11px; }
.worth { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; }
.worth h3 { margin: .2rem 0; font-size: .95rem; } ul { margin: .3rem 0 .6rem; padding-left: 1.2rem; }
article { margin-bottom: 1rem; }
article h3 { margin: 0 0 .2rem; font-size: 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.replies { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; margin-top: .8rem; }
.reply { border-left: 3px solid var(--line); padding-left: .8rem; min-width: 0; }
.reply.reference { border-color: var(--accent); }
.reply b { font-size: .85rem; color: var(--soft); font-weight: 600; overflow-wrap: anywhere; }
.reply p { margin: .15rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.error { color: var(--bad); }
pre { overflow-x: auto; font-size: .82rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.2rem; }
"""


def html_report(
    comparison: Comparison,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    contestants: Sequence[Contestant],
) -> str:
    """Everything about a comparison as one self-contained page.

    Args:
        answers: by label.
    """
    verdict = comparison.verdict
    when = f"{comparison.comparison_id} · {comparison.created_at}"
    notes = "".join(f"<li>{_text(note)}</li>" for note in comparison.notes)
    parts = [
        f'<h1>Comparison <span class="soft">{_text(when)}</span></h1>',
        f'<p class="verdict {verdict.answer}">{_text(headline(comparison))}</p>',
        f'<p class="why">{_text(verdict.why)}</p>',
        "<h2>Scores</h2>",
        _scores(comparison),
        '<div class="plots">',
        score_bars(comparison),
        win_bars(comparison),
        *(loss_plot(one.label, loss_curve(one)) for one in contestants),
        "</div>",
        "<h2>Pairs</h2>",
        _pairs(comparison),
        f"<h2>Was it worth it? {_text(comparison.worth_it.answer.capitalize())}</h2>",
        _worth(comparison),
        f"<h2>To know when reading this</h2><ul>{notes}</ul>" if notes else "",
        "<h2>Answers side by side</h2>",
        *(_question(question, answers) for question in questions),
        "<h2>How it was made</h2>",
        f"<pre>{_text(provenance(comparison, contestants))}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY, quote=True)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(headline(comparison))}</title><style>{_STYLE}</style></head><body><main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main></body></html>\n"
    )


def _scores(comparison: Comparison) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in COLUMNS)
    body = ""
    for score in comparison.models:
        label, *rest = score_cells(score)
        first = f"<td><strong>{_text(label)}</strong><br><small>{_text(score.served)}</small></td>"
        body += f"<tr>{first}{''.join(f'<td>{_with_interval(cell)}</td>' for cell in rest)}</tr>"
    sampling = comparison.sampling
    caption = (
        f"{comparison.questions} questions, {sampling.repetitions} repetition{'s' * (sampling.repetitions > 1)}, "
        f"temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens, seed {sampling.seed}. "
        "In brackets: 95 % bootstrap interval over the questions. "
        "Memorised: share of the words in long quotations of training answers."
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="soft">{_text(caption)}</p>'
    )


def _pairs(comparison: Comparison) -> str:
    names = ("pair", "wins", "ties", "losses", "win rate", "chrF difference", "p (Wilcoxon, Holm)", "p (sign)")
    head = "".join(f"<th>{name}</th>" for name in names)
    body = ""
    for pair in comparison.pairs:
        cells = (
            str(pair.wins),
            str(pair.ties),
            str(pair.losses),
            interval(pair.win_rate, "{:.0%}"),
            interval(pair.difference, "{:+.1f}"),
            number(pair.p_value, "{:.3g}"),
            number(pair.sign_p_value, "{:.3g}"),
        )
        body += f"<tr><td>{_text(pair.a)} against {_text(pair.b)}</td>"
        body += "".join(f"<td>{_with_interval(cell)}</td>" for cell in cells) + "</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _worth(comparison: Comparison) -> str:
    def listing(title: str, texts: Sequence[str]) -> str:
        entries = "".join(f"<li>{_text(text)}</li>" for text in texts) or "<li>Nothing in these figures.</li>"
        return f"<div><h3>{title}</h3><ul>{entries}</ul></div>"

    worth = comparison.worth_it
    return f'<div class="worth">{listing("For", worth.in_favour)}{listing("Against", worth.against)}</div>'


def _question(question: Question, answers: Mapping[str, Sequence[Answer]]) -> str:
    cells = []
    if question.reference is not None:
        cells.append(_reply("reference", "reference", f"<p>{_text(question.reference)}</p>"))
    for label, given in answers.items():
        mine = [answer for answer in given if answer.question == question.question]
        cells += [_reply("", _title(label, answer), _body(answer)) for answer in mine]
    return (
        f'<article><span class="soft">Question {question.question}</span><h3>{_text(question.text)}</h3>'
        f'<div class="replies">{"".join(cells)}</div></article>'
    )


def _reply(kind: str, title: str, body: str) -> str:
    return f'<div class="reply {kind}"><b>{_text(title)}</b>{body}</div>'


def _title(label: str, answer: Answer) -> str:
    title = label if answer.repetition == 1 else f"{label} · {answer.repetition}"
    return f"{title} · cut off" if answer.finish_reason == "length" else title


def _body(answer: Answer) -> str:
    if answer.reply is None:
        return f'<p class="error">No answer: {_text(answer.error or "")}</p>'
    return f"<p>{_text(answer.reply)}</p>" if answer.reply else '<p class="soft">(an empty answer)</p>'


def _with_interval(cell: str) -> str:
    mean, found, rest = cell.partition(" [")
    return f"{_text(mean)}<br><small>[{_text(rest)}</small>" if found else _text(cell)


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
