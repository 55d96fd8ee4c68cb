"""The scoring sheet as one HTML page: answers side by side under letters, three scores each, and a file to save.

The page loads nothing and sends nothing. Its one script, named by its digest, keeps what is chosen in the browser and
saves it as the table that `human_reading` reads.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from tunesmith.evaluation.human_sheet import ANCHORS, CRITERIA, Sheet, SheetQuestion, Shown

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #22262b; --soft: #6a7078; --line: #e2ded5; --card: #fff;
  --accent: #2f6f73; --done: #2d7d46; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191c; --ink: #e6e4df; --soft: #9aa0a8; --line: #33373d;
  --card: #1f2226; --accent: #7cc4c7; --done: #7fce97; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, "Noto Sans CJK SC",
  "PingFang SC", "Microsoft YaHei", sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 2rem 1.5rem 7rem; }
h1 { font-size: 1.5rem; margin: 0 0 .4rem; } h2 { font-size: 1rem; margin: 0 0 .4rem; color: var(--soft); }
.soft { color: var(--soft); font-size: .9rem; }
details { margin: 1rem 0 2rem; } summary { cursor: pointer; color: var(--accent); }
table { border-collapse: collapse; font-size: .9rem; margin-top: .6rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
section { border-top: 2px solid var(--line); padding: 1.4rem 0; }
.asked { font-weight: 600; } .asked, .text, .reference { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.reference { border-left: 3px solid var(--accent); padding-left: .8rem; margin: .8rem 0; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem;
  margin-top: .8rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem;
  display: flex; flex-direction: column; gap: .8rem; min-width: 0; }
article.done { border-color: var(--done); }
.text { flex: 1; }
fieldset { border: 0; padding: 0; margin: 0; display: flex; flex-wrap: wrap; align-items: center; gap: .2rem .5rem; }
legend { float: left; width: 10rem; padding: 0; white-space: nowrap; }
fieldset label { position: relative; }
fieldset input { position: absolute; opacity: 0; inset: 0; margin: 0; cursor: pointer; }
fieldset span { display: inline-block; min-width: 2.1rem; text-align: center; padding: .15rem 0; border-radius: 6px;
  border: 1px solid var(--line); }
fieldset input:checked + span { background: var(--accent); color: var(--paper); border-color: var(--accent); }
fieldset input:focus-visible + span { outline: 2px solid var(--accent); outline-offset: 2px; }
textarea { width: 100%; font: inherit; font-size: .9rem; color: inherit; background: var(--paper);
  border: 1px solid var(--line); border-radius: 6px; padding: .4rem; }
footer { position: fixed; inset: auto 0 0; background: var(--card); border-top: 1px solid var(--line);
  padding: .8rem 1.5rem; display: flex; gap: 1rem; align-items: center; flex-wrap: wrap; }
button { font: inherit; font-weight: 600; color: var(--paper); background: var(--accent); border: 0;
  border-radius: 8px; padding: .5rem 1.1rem; cursor: pointer; }
"""

_SCRIPT = """
"use strict";
const { comparison, sheet } = document.body.dataset;
const cards = [...document.querySelectorAll("article")];
const memory = `tunesmith ${comparison} ${sheet}`;
const criteria = ["domain_knowledge", "response_style", "accuracy"];
const read = (card) => ({
  question: card.dataset.question, answer: card.dataset.answer,
  scores: criteria.map((name) => card.querySelector(`input[data-criterion="${name}"]:checked`)?.value ?? ""),
  note: card.querySelector("textarea").value,
});
let saved = true;
function count() {
  let done = 0;
  for (const card of cards) {
    const all = read(card).scores.every(Boolean);
    card.classList.toggle("done", all);
    done += all;
  }
  document.getElementById("count").textContent = `${done} of ${cards.length} answers scored`;
}
function keep() {
  saved = false;
  try { localStorage.setItem(memory, JSON.stringify(cards.map(read))); } catch { /* the browser forbids it */ }
  count();
}
function recall() {
  let before = [];
  try { before = JSON.parse(localStorage.getItem(memory)) ?? []; } catch { return; }
  for (const one of before) {
    const card = cards.find((each) => each.dataset.question === one.question && each.dataset.answer === one.answer);
    if (!card) continue;
    criteria.forEach((name, place) => {
      const input = card.querySelector(`input[data-criterion="${name}"][value="${Number(one.scores[place])}"]`);
      if (input) input.checked = true;
    });
    card.querySelector("textarea").value = one.note;
  }
}
function cell(text) {
  const plain = String(text);
  const harmless = /^[=+@\\t\\r-]/.test(plain) ? `'${plain}` : plain;
  return `"${harmless.replaceAll('"', '""')}"`;
}
function save() {
  const lines = [["comparison", "sheet", "question", "answer", ...criteria, "note"]];
  for (const one of cards.map(read)) {
    lines.push([comparison, sheet, one.question, one.answer, ...one.scores, one.note]);
  }
  const text = "\\ufeff" + lines.map((line) => line.map(cell).join(",")).join("\\r\\n") + "\\r\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `${comparison}-scores-${sheet}.csv`;
  link.click();
  saved = true;
}
document.addEventListener("input", keep);
document.getElementById("save").addEventListener("click", save);
window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
recall();
count();
"""


def sheet_html(sheet: Sheet) -> str:
    """The sheet as a page to open in a browser."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    head = "".join(f"<th>{score}</th>" for score in range(1, 6))
    rows = "".join(
        f"<tr><th>{_name(criterion)}</th>{''.join(f'<td>{escape(text)}</td>' for text in ANCHORS[criterion])}</tr>"
        for criterion in CRITERIA
    )
    sections = "".join(_question(one) for one in sheet.questions)
    command = f"tunesmith record-scores {sheet.comparison_id} FILE"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Score {escape(sheet.comparison_id)}</title><style>{_STYLE}</style></head>"
        f'<body data-comparison="{escape(sheet.comparison_id, quote=True)}" data-sheet="{sheet.seed}"><main>'
        "<h1>Which answers are good?</h1>"
        f'<p class="soft">{len(sheet.questions)} questions, {sheet.answers} answers, from 1 (worst) to 5. You do not '
        "see which model wrote an answer, and a letter means another model in each question. Leave out what you cannot "
        "judge. Your choices stay in this browser until you save them; then record the file: "
        f"<code>{escape(command)}</code></p>"
        f"<details open><summary>What the scores mean</summary><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></details>"
        f'{sections}</main><footer><button id="save" type="button">Save the scores</button>'
        f'<span id="count" role="status"></span></footer><script>{_SCRIPT}</script></body></html>\n'
    )


def _question(one: SheetQuestion) -> str:
    reference = (
        f'<p class="reference"><span class="soft">A right answer:</span>\n{escape(one.reference)}</p>'
        if one.reference is not None
        else ""
    )
    answers = "".join(_answer(one.number, answer) for answer in one.answers)
    return (
        f'<section><h2>Question {one.number}</h2><p class="asked">{escape(one.asked)}</p>{reference}'
        f'<div class="answers">{answers}</div></section>'
    )


def _answer(number: int, answer: Shown) -> str:
    place = f"{number}{answer.letter}"
    text = (
        f'<p class="text">{escape(answer.text)}</p>' if answer.text.strip() else '<p class="soft">(an empty answer)</p>'
    )
    return (
        f'<article data-question="{number}" data-answer="{answer.letter}"><h2>Answer {answer.letter}</h2>{text}'
        + "".join(_scale(place, criterion) for criterion in CRITERIA)
        + f'<textarea rows="1" maxlength="2000" aria-label="Note on answer {place}" placeholder="Note"></textarea>'
        "</article>"
    )


def _scale(place: str, criterion: str) -> str:
    choices = "".join(
        f'<label title="{escape(text, quote=True)}"><input type="radio" name="{place}-{criterion}" '
        f'data-criterion="{criterion}" value="{score}"><span>{score}</span></label>'
        for score, text in enumerate(ANCHORS[criterion], start=1)
    )
    return f"<fieldset><legend>{_name(criterion)}</legend>{choices}</fieldset>"


def _name(criterion: str) -> str:
    return criterion.replace("_", " ").capitalize()
