"""A score as a file for programs and as a page for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from tunesmith.data.checks.findings import CHECKS, Finding
from tunesmith.data.checks.marks import Mark, marks
from tunesmith.data.records import Dataset, LengthStats, Row
from tunesmith.data.scoring_records import CheckFindings, Score

EXAMPLES = 5  # rows shown for each check
AROUND_CHARS = 120  # shown on either side of what is marked
EXCERPT_CHARS = 300
_STYLE = """
:root{--ink:#1d2430;--soft:#5c6675;--line:#dfe3e8;--page:#fff;--card:#f6f7f9;--bar:#4a6fa5;--good:#2e7d4f;
--error:#b3261e;--warning:#8a5a00;--info:#4a6fa5;--mark:#ffe08a}
@media(prefers-color-scheme:dark){:root{--ink:#e3e6ea;--soft:#9aa4b2;--line:#343b45;--page:#15181c;--card:#1e2328;
--bar:#7fa3d8;--good:#6cc08f;--error:#ff8a80;--warning:#f0b84a;--info:#8fb4e8;--mark:#6b5410}}
body{font:15px/1.55 system-ui,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif;max-width:62rem;
margin:2rem auto;padding:0 1.2rem;color:var(--ink);background:var(--page)}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2.4rem 0 .6rem}h3{font-size:1rem;margin:1.6rem 0 .3rem}
small,.soft{color:var(--soft)}.head{display:flex;gap:1.4rem;align-items:center;margin:1.2rem 0}
.grade{font-size:3rem;font-weight:700;line-height:1}.strip{height:.7rem;width:100%;border-radius:.35rem;overflow:hidden}
table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid var(--line);padding:.4rem .7rem .4rem 0;text-align:left;vertical-align:top}
td.number,th.number{text-align:right;white-space:nowrap}
.error{color:var(--error)}.warning{color:var(--warning)}.info{color:var(--info)}
.row{background:var(--card);border-radius:.4rem;padding:.5rem .8rem;margin:.5rem 0}
.row p{margin:.2rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0;font:13px/1.5 ui-monospace,monospace}
mark{background:var(--mark);color:inherit;padding:0 .1em;border-radius:.15em}
svg{display:block;max-width:100%}figure{margin:0 0 1rem}figcaption{color:var(--soft)}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem 2rem}
"""


def report_json(dataset_id: str, score: Score, rows: Sequence[tuple[str, list[Finding]]]) -> bytes:
    """The score, and `rows: [{row_id, findings: [{check, severity, message, fix}]}]`, one entry a flagged row."""
    import orjson

    entries = [{"row_id": row_id, "findings": [each.as_record() for each in found]} for row_id, found in rows]
    return orjson.dumps({"dataset_id": dataset_id, **score.model_dump(), "rows_scored": score.rows, "rows": entries})


def report_html(
    dataset: Dataset,
    score: Score,
    rows: Sequence[tuple[str, list[Finding]]],
    excerpts: Mapping[str, Row],
    lengths: Mapping[str, Sequence[int]],
) -> str:
    """One page without anything loaded from elsewhere. All text of rows is escaped: it is data.

    Args:
        rows: the flagged rows with their findings, in order.
        excerpts: the rows that `sample_row_ids` of the score's findings name, by id.
        lengths: of every question and answer, in characters, under these two words.
    """
    body = "".join(_body(dataset, score, rows, excerpts, lengths))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Quality of {escape(dataset.name)}</title><style>{_STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


def _body(
    dataset: Dataset,
    score: Score,
    rows: Sequence[tuple[str, list[Finding]]],
    excerpts: Mapping[str, Row],
    lengths: Mapping[str, Sequence[int]],
) -> Iterator[str]:
    yield f"<h1>{escape(dataset.name)}</h1><small>{dataset.dataset_id} · {score.rows:,} rows</small>"
    yield f'<div class="head"><div class="grade">{score.grade}</div><div style="flex:1">'
    yield f"<strong>{score.passed:,} rows ({score.quality_rate:.1%}) have no finding</strong>; "
    yield f"{score.flagged:,} have at least one."
    yield _strip(score.quality_rate)
    yield f'<p class="soft">{escape(score.quantity.advice)}</p></div></div>'
    yield from _plan(score)
    if score.findings:
        yield "<h2>Findings</h2><table><tr><th>Check</th><th class=number>Rows</th><th>What</th><th>What to "
        yield "do</th></tr>"
        for entry in score.findings:
            yield (
                f'<tr><td>{entry.check}<br><small class="{entry.severity}">{entry.severity}</small></td>'
                f"<td class=number>{entry.rows:,}<br><small>{entry.share:.1%}</small></td>"
                f"<td>{escape(entry.message)}</td><td>{escape(entry.fix)}</td></tr>"
            )
        yield "</table>"
    yield from _distributions(dataset, score, lengths)
    messages = {(row_id, each.check): each.message for row_id, found in rows for each in found}
    if any(entry.sample_row_ids for entry in score.findings):
        yield f"<h2>Examples</h2><p class=soft>At most {EXAMPLES} rows a check; report.json names all.</p>"
        for entry in score.findings:
            yield from _examples(entry, messages, excerpts)


def _plan(score: Score) -> Iterator[str]:
    plan = score.clean_plan
    yield "<h2>What cleaning would do</h2>"
    if not plan.would_drop and not plan.would_edit:
        yield "<p>clean_dataset with its defaults would change nothing.</p>"
        return
    staying = score.rows - plan.would_drop
    yield f"<p>clean_dataset with its defaults would drop <strong>{plan.would_drop:,}</strong> rows, edit "
    yield f"<strong>{plan.would_edit:,}</strong>"
    yield f" and leave {staying:,}. It drops errors and duplicates, redacts personal data and secrets, and "
    yield "cuts long answers."
    yield " No other row changes.</p>"


def _strip(share: float) -> str:
    return (
        '<svg class="strip" viewBox="0 0 100 1" preserveAspectRatio="none" role="img" aria-label="Share '
        'of rows without a finding">'
        '<rect width="100" height="1" fill="var(--line)"/>'
        f'<rect width="{100 * share:.2f}" height="1" fill="var(--good)"/></svg>'
    )


def _distributions(dataset: Dataset, score: Score, lengths: Mapping[str, Sequence[int]]) -> Iterator[str]:
    yield '<h2>Distributions</h2><div class="two">'
    for name, stats in (("question", score.lengths.instruction), ("answer", score.lengths.output)):
        yield "<figure>" + _histogram(lengths[name])
        yield f"<figcaption>{_lengths_in_words(name, stats)}</figcaption></figure>"
    yield f"<figure>{_bars(_known_languages(dataset.languages), score.rows)}<figcaption>Languages, "
    yield "rows.</figcaption></figure>"
    openings = {
        f"{each.opening} …": round(each.share * each.rows)
        for each in (score.diversity.by_word, score.diversity.by_characters)
        if each.opening
    }
    yield f"<figure>{_bars(openings, score.rows)}<figcaption>Most frequent beginnings of questions, rows. "
    yield f"{score.diversity.unique_instructions:.1%} of the questions differ.</figcaption></figure></div>"
    if score.tokens is not None:
        tokens = score.tokens
        yield f"<p>{tokens.total:,} tokens; median {tokens.p50:,}, 95 % up to {tokens.p95:,}, longest {tokens.max:,}; "
        yield f"{tokens.over_max_length:,} rows over the limit of {tokens.max_length or 0:,}.</p>"


def _known_languages(languages: Mapping[str, int]) -> dict[str, int]:
    names = {"zh": "Chinese", "en": "English", "other": "other"}
    return {names.get(code, code): count for code, count in languages.items() if count}


def _lengths_in_words(name: str, stats: LengthStats) -> str:
    return (
        f"Characters of the {name}: {stats.min:,} to {stats.max:,}, median {stats.p50:,}, "
        f"mean {stats.mean:,.0f}, 95 % up to {stats.p95:,}."
    )


def _histogram(values: Sequence[int]) -> str:
    """Bars over lengths that double from one to the next: both short and long texts stay visible."""
    counts: dict[int, int] = {}
    for value in values:
        counts[value.bit_length()] = counts.get(value.bit_length(), 0) + 1
    first, last, most = min(counts), max(counts), max(counts.values())
    width = 400 / (last - first + 1)
    bars: list[str] = []
    for place, bits in enumerate(range(first, last + 1)):
        count, left = counts.get(bits, 0), place * width
        height = 90 * count / most
        label = f"{2 ** (bits - 1) if bits else 0:,}"
        bars.append(
            f'<rect x="{left + 1:.1f}" y="{100 - height:.1f}" width="{width - 2:.1f}" height="{height:.1f}" '
            f'fill="var(--bar)">'
            f"<title>{count:,} of {label} to {2**bits - 1:,} characters</title></rect>"
            f'<text x="{left:.1f}" y="114" font-size="11" fill="var(--soft)">{label}</text>'
        )
    return f'<svg viewBox="0 0 400 120" role="img" aria-label="Histogram of lengths">{"".join(bars)}</svg>'


def _bars(counts: Mapping[str, int], total: int) -> str:
    lines = [
        f'<text x="0" y="{24 * place + 16}" font-size="13" fill="var(--ink)">{escape(name[:20])}</text>'
        f'<rect x="150" y="{24 * place + 5}" width="{max(1.0, 190 * count / total):.1f}" height="14" '
        f'fill="var(--bar)"/>'
        f'<text x="{156 + 190 * count / total:.1f}" y="{24 * place + 16}" font-size="12" '
        f'fill="var(--soft)">{count:,}</text>'
        for place, (name, count) in enumerate(counts.items())
    ]
    return f'<svg viewBox="0 0 400 {24 * max(1, len(lines))}" role="img" aria-label="Bars">{"".join(lines)}</svg>'


def _examples(
    entry: CheckFindings, messages: Mapping[tuple[str, str], str], excerpts: Mapping[str, Row]
) -> Iterator[str]:
    if not entry.sample_row_ids:
        return
    severity = CHECKS[entry.check].severity
    yield f'<h3><span class="{severity}">{entry.check}</span> <small>{entry.rows:,} '
    yield "rows</small></h3>"
    for row_id in entry.sample_row_ids[:EXAMPLES]:
        yield f'<div class="row"><p><strong>{escape(row_id)}</strong> <small>'
        yield f"{escape(messages.get((row_id, entry.check), ''))}</small></p>"
        if row_id in excerpts:
            for role, text, found in marks(excerpts[row_id], entry.check):
                yield f"<pre><small>{role}</small> {_marked(text, found)}</pre>"
        yield "</div>"


def _marked(text: str, found: Sequence[Mark]) -> str:
    """Shortened and escaped, with what the check names in `<mark>`."""
    if not found:
        return escape(text[:EXCERPT_CHARS]) + ("…" if len(text) > EXCERPT_CHARS else "")
    start = max(0, found[0].start - AROUND_CHARS)
    last = min(len(text), max(found[-1].end if len(found) < 4 else found[3].end, start) + AROUND_CHARS)
    last = min(last, start + 4 * EXCERPT_CHARS)
    pieces, at = ["…" if start else ""], start
    for mark in found:
        if mark.start >= last:
            break
        end = min(mark.end, last)
        pieces += [escape(text[at : mark.start]), f"<mark>{escape(text[mark.start : end])}</mark>"]
        at = max(at, end)
    return "".join([*pieces, escape(text[at:last]), "…" if last < len(text) else ""])
