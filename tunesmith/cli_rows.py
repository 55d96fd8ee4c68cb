"""Datasets as text for people: the list, one in full, rows, findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tunesmith.cli_text import GAP, ago, aligned, one_line, seconds_between, shortened
from tunesmith.data.records import Dataset, Row
from tunesmith.runs.plain_text import clean

if TYPE_CHECKING:
    from tunesmith.models.rendering import RenderedRow

LEAST_LAST = 20  # cells of the last column, however narrow the terminal
ROW_CHARS = 2000  # of one message that are shown
SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def print_table(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str]
) -> None:
    """Aligned columns under headings; in a terminal the last one is cut to fit. One style a row, for its first cell."""
    cells = [[one_line(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(headings) - 1)]
    room = max(LEAST_LAST, console.width - sum(widths) - GAP * len(widths)) if console.is_terminal else None
    for row, style in zip(cells, ("bold", *styles), strict=True):
        last = row[-1] if room is None else shortened(row[-1], room)
        line = Text(aligned((*row[:-1], last), widths), style="bold" if row is cells[0] else "")
        if row is not cells[0] and style:
            line.stylize(style, 0, len(row[0]))
        console.print(line, soft_wrap=True)


def print_list(console: Console, datasets: Sequence[Dataset], now: datetime | None = None) -> None:
    """Datasets, one a line."""
    now = now or datetime.now(UTC)
    rows = [
        (
            each.dataset_id,
            f"{each.rows:,}",
            _splits(each),
            each.created_by,
            ago(seconds_between(each.created_at, None, now) or 0.0),
            each.name,
        )
        for each in datasets
    ]
    print_table(console, ("dataset", "rows", "train/eval", "made by", "made", "name"), rows, [""] * len(rows))


def facts(dataset: Dataset, folder: str) -> list[tuple[str, str]]:
    """What is said of one dataset, name and value."""
    languages = ", ".join(f"{name} {count:,}" for name, count in dataset.languages.items() if count)
    found = [("dataset", dataset.dataset_id), ("name", one_line(dataset.name)), ("rows", f"{dataset.rows:,}")]
    if dataset.splits.train or dataset.splits.eval:
        found.append(("train/eval", _splits(dataset)))
    found += [("languages", languages), ("made by", dataset.created_by), ("made", dataset.created_at)]
    if dataset.parents:
        found.append(("from", ", ".join(dataset.parents)))
    for name, lengths in (("questions", dataset.chars.instruction), ("answers", dataset.chars.output)):
        text = f"{lengths.min:,} to {lengths.max:,} characters, half of them up to {lengths.p50:,}"
        found.append((name, text))
    if dataset.sources.files:
        found.append(("sources", f"{dataset.sources.files:,} files, {dataset.sources.spans:,} rows name their lines"))
    return [*found, ("sha256", dataset.sha256), ("folder", folder)]


def print_row(console: Console, row: Row, rendered: RenderedRow | None) -> None:
    """One row: where it comes from, then its messages, or the text that is trained on."""
    source = row.source
    where = f"  {source.path}:{source.first_line}-{source.last_line} ({source.strategy})" if source else ""
    split = f"  {row.split}" if row.split else ""
    console.print(Text(one_line(f"{row.row_id}{split}{where}"), style="bold"), soft_wrap=True)
    if rendered is not None:
        tokens = (
            "" if rendered.tokens is None else f"{rendered.tokens:,} tokens, {rendered.trained_tokens:,} trained on"
        )
        for segment in rendered.segments:
            mark = "» " if segment.trained else "  "
            _print_block(console, segment.text, mark, "green" if segment.trained else "dim")
        console.print(Text(f"  {tokens}  (» carries loss)", style="dim"), soft_wrap=True)
    else:
        for message in row.messages:
            console.print(Text(f"  {message.role}:", style="cyan"))
            _print_block(console, message.content, "    ", "")
    console.print()


def print_findings(console: Console, score: Mapping[str, Any]) -> None:
    """A score: its grade, the findings as a table, what cleaning would do, and last the path of the report."""
    say = f"Grade {score['grade']}: {score['passed']:,} of {score['rows']:,} rows have no finding."
    console.print(Text(say, style="bold"), soft_wrap=True)
    console.print(Text(one_line(score["quantity"]["advice"])), soft_wrap=True)
    findings = score["findings"]
    if findings:
        rows = [
            (
                each["severity"],
                each["check"],
                f"{each['rows']:,}",
                f"{each['share']:.1%}",
                f"{each['message']} {each['fix']}",
            )
            for each in findings
        ]
        styles = [SEVERITY_STYLES.get(each["severity"], "") for each in findings]
        print_table(console, ("severity", "check", "rows", "share", "what, and what to do"), rows, styles)
    plan = score["clean_plan"]
    say = f"`tunesmith data clean` would drop {plan['would_drop']:,} rows and edit {plan['would_edit']:,}."
    console.print(Text(say), soft_wrap=True)
    console.print(Text(f"Report: {score['report']}"), soft_wrap=True)


def _print_block(console: Console, text: str, mark: str, style: str) -> None:
    shown = clean(text[:ROW_CHARS])
    for line in shown.split("\n"):
        console.print(Text(f"{mark}{line}", style=style), soft_wrap=True)
    if len(text) > ROW_CHARS:
        console.print(Text(f"{mark}… {len(text) - ROW_CHARS:,} more characters", style="dim"))


def _splits(dataset: Dataset) -> str:
    splits = dataset.splits
    return f"{splits.train:,}/{splits.eval:,}" if splits.train or splits.eval else "–"
