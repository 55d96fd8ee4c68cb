"""A score as a file for programs and as a page for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from tunesmith.data.checks.findings import CHECKS, Finding
from tunesmith.data.records import Dataset, Row
from tunesmith.data.scoring_records import Score

EXCERPT_CHARS = 300
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid #ddd;padding:.35rem .6rem;text-align:left;vertical-align:top}
.grade{font-size:2.5rem;font-weight:700}.error{color:#b00020}.warning{color:#8a5a00}.info{color:#555}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:.5rem;margin:.2rem 0}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#242424}td,th{border-color:#444}}
"""


def report_json(dataset_id: str, score: Score, rows: Sequence[tuple[str, list[Finding]]]) -> bytes:
    """The score, and `rows: [{row_id, findings: [{check, severity, message, fix}]}]`, one entry a flagged row."""
    import orjson

    entries = [{"row_id": row_id, "findings": [each.as_record() for each in found]} for row_id, found in rows]
    return orjson.dumps({"dataset_id": dataset_id, **score.model_dump(), "rows_scored": score.rows, "rows": entries})


def report_html(
    dataset: Dataset, score: Score, rows: Sequence[tuple[str, list[Finding]]], excerpts: Mapping[str, Row]
) -> str:
    """One page without anything loaded from elsewhere. All text of rows is escaped: it is data."""
    body = "\n".join(_body(dataset, score, rows, excerpts))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Quality of {escape(dataset.name)}</title><style>{_STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


def _body(
    dataset: Dataset, score: Score, rows: Sequence[tuple[str, list[Finding]]], excerpts: Mapping[str, Row]
) -> Iterator[str]:
    yield f"<h1>{escape(dataset.name)} <small>{dataset.dataset_id}</small></h1>"
    yield f'<p><span class="grade">{score.grade}</span> {score.passed:,} of {score.rows:,} rows have no finding '
    yield f"({score.quality_rate:.1%}); {score.flagged:,} have at least one.</p>"
    yield f"<p>{escape(score.quantity.advice)}</p>"
    plan = score.clean_plan
    yield f"<p>clean_dataset with its defaults would drop {plan.would_drop:,} rows and edit {plan.would_edit:,}.</p>"
    if score.findings:
        yield "<h2>Findings</h2><table><tr><th>Check</th><th>Rows</th><th>What</th><th>What to do</th></tr>"
        for entry in score.findings:
            yield (
                f'<tr><td class="{entry.severity}">{entry.check}<br><small>{entry.severity}</small></td>'
                f"<td>{entry.rows:,} ({entry.share:.1%})</td><td>{escape(entry.message)}</td>"
                f"<td>{escape(entry.fix)}</td></tr>"
            )
        yield "</table>"
    yield from _lengths(score)
    if rows:
        yield f"<h2>Flagged rows</h2><p>{len(rows):,} of {score.flagged:,} shown; all are in report.json.</p>"
        for row_id, found in rows:
            yield from _row(row_id, found, excerpts.get(row_id))


def _lengths(score: Score) -> Iterator[str]:
    yield "<h2>Lengths</h2><table><tr><th></th><th>min</th><th>median</th><th>95 %</th><th>max</th><th>mean</th></tr>"
    for name, stats in (
        ("question, characters", score.lengths.instruction),
        ("answer, characters", score.lengths.output),
    ):
        cells = "".join(f"<td>{value:,}</td>" for value in (stats.min, stats.p50, stats.p95, stats.max, stats.mean))
        yield f"<tr><th>{name}</th>{cells}</tr>"
    yield "</table>"
    if score.tokens is not None:
        tokens = score.tokens
        yield f"<p>{tokens.total:,} tokens; median {tokens.p50:,}, 95 % {tokens.p95:,}, longest {tokens.max:,}; "
        yield f"{tokens.over_max_length:,} rows over the limit of {tokens.max_length or 0:,}.</p>"


def _row(row_id: str, found: list[Finding], row: Row | None) -> Iterator[str]:
    yield f"<h3>{escape(row_id)}</h3><ul>"
    for each in found:
        yield f'<li class="{CHECKS[each.check].severity}">{each.check}: {escape(each.message)}</li>'
    yield "</ul>"
    # What was found to be private or secret is not copied into a page that gets passed around.
    if row is not None and not any(each.check in ("pii", "secret") for each in found):
        for text in (row.instruction, row.output):
            cut = "…" if len(text) > EXCERPT_CHARS else ""
            yield f"<pre>{escape(text[:EXCERPT_CHARS])}{cut}</pre>"
