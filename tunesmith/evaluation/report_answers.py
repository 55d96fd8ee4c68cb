"""The answers side by side, as HTML: one fold a question, a filter without a script, long answers folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tunesmith.evaluation.records import Answer, Question
from tunesmith.evaluation.report_figures import Differences, Scored, by_question_and_label
from tunesmith.evaluation.report_text import cut, printable, room_for_answers

OPEN_QUESTIONS = 6  # more of them stay folded, so that a page of 500 can be looked over
SHOWN_CHARS = 1_500
MAX_TITLE = 160


def answers_html(
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    found: Differences,
    scores: Mapping[str, Sequence[Scored]],
) -> str:
    """Every question with its reference and all answers.

    Args:
        answers: by label.
        scores: by who gave them: `judge`, `people`.
    """
    by_question, noted = by_question_and_label(answers, scores)
    room = room_for_answers(sum(map(len, by_question.values())))
    colours = {label: f"var(--m{place % 8})" for place, label in enumerate(answers)}
    parts = [_filter(questions, by_question, found)]
    for place, question in enumerate(questions):
        mine = by_question.get(question.question, [])
        kinds = _kinds(mine, found.side(question.question))
        value = found.by_question.get(question.question)
        badge = f'<span class="badge">{_text(found.candidate)} {value:+.1f}</span>' if value is not None else ""
        title, left_out = cut(" ".join(printable(question.text).split()), MAX_TITLE)
        cells = (
            []
            if question.reference is None
            else [_reply(_reference(question), _shown(question.reference, room), "--ink")]
        )
        cells += [
            _reply(
                _title(one), _body(one, room) + _scores(noted.get((one.question, one.label))), colours[one.label][4:-1]
            )
            for one in mine
        ]
        # A title that shows the whole question need not be repeated under it.
        whole = left_out or len(question.messages) > 1 or "\n" in question.text.strip()
        asked = "".join(_message(m.role, m.content, len(question.messages) > 1, room) for m in question.messages)
        opened = " open" if place < OPEN_QUESTIONS else ""
        parts.append(
            f'<article class="{kinds}"><details{opened}><summary>{badge}<span class="num">{question.question}</span>'
            f"<b>{escape(title)}{'…' * bool(left_out)}</b></summary>"
            f'<div class="inside">{asked if whole else ""}<div class="replies">{"".join(cells)}</div></div></details>'
            "</article>"
        )
    return "".join(parts)


def _filter(questions: Sequence[Question], answers: Mapping[int, Sequence[Answer]], found: Differences) -> str:
    counts: dict[str, int] = {}
    for question in questions:
        for kind in _kinds(answers.get(question.question, ()), found.side(question.question)).split():
            counts[kind] = counts.get(kind, 0) + 1
    names = {
        "up": f"{found.candidate} ahead",
        "down": f"{found.baseline} ahead",
        "even": "even",
        "failed": "with a failed answer",
        "cut": "with an answer cut off",
    }
    chosen = [("all", "all", len(questions)), *((kind, names[kind], counts[kind]) for kind in names if kind in counts)]
    if len(chosen) < 3:
        return ""
    return (
        '<div class="filter">'
        + "".join(
            f'<label><input type="radio" name="shown" id="f-{kind}"{" checked" * (kind == "all")}>{_text(name)} '
            f"({count})</label>"
            for kind, name, count in chosen
        )
        + "</div>"
    )


def _kinds(answers: Sequence[Answer], side: str) -> str:
    kinds = [side] if side else []
    if any(answer.reply is None for answer in answers):
        kinds.append("failed")
    if any(answer.finish_reason == "length" for answer in answers):
        kinds.append("cut")
    return " ".join(kinds)


def _message(role: str, content: str, several: bool, room: int) -> str:
    named = f'<span class="soft">{role}: </span>' if several else ""
    text, left_out = cut(printable(content), room)
    return f'<p class="asked">{named}{escape(text)}{_left_out(left_out)}</p>'


def _reply(title: str, body: str, colour: str) -> str:
    dashed = ";border-left-style:dashed" if colour == "--ink" else ""
    return f'<div class="reply" style="border-color:var({colour}){dashed}"><b>{_text(title)}</b>{body}</div>'


def _reference(question: Question) -> str:
    return f"reference · {question.source}" if question.source else "reference"


def _title(answer: Answer) -> str:
    title = answer.label if answer.repetition == 1 else f"{answer.label} · {answer.repetition}"
    return f"{title} · cut off" if answer.finish_reason == "length" else title


def _body(answer: Answer, room: int) -> str:
    if answer.reply is None:
        return f'<p class="error">No answer: {_text(answer.error or "")}</p>'
    return _shown(answer.reply, room) if answer.reply else '<p class="soft">(an empty answer)</p>'


def _shown(text: str, room: int) -> str:
    """A text, its later part folded where it is long."""
    plain, left_out = cut(printable(text), room)
    if len(plain) <= SHOWN_CHARS * 1.2:
        return f'<p dir="auto">{escape(plain)}{_left_out(left_out)}</p>'
    first, rest = plain[:SHOWN_CHARS], plain[SHOWN_CHARS:]
    return (
        f'<p dir="auto">{escape(first)}</p><details><summary class="soft">{len(rest):,} characters more</summary>'
        f'<p dir="auto">{escape(rest)}{_left_out(left_out)}</p></details>'
    )


def _left_out(count: int) -> str:
    return f'<span class="soft"> … {count:,} characters more are in answers.jsonl</span>' if count else ""


def _scores(notes: Sequence[str] | None) -> str:
    return f'<div class="scores">{_text("; ".join(notes))}</div>' if notes else ""


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
