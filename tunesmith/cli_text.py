"""Runs as text for people: times, progress, the table, one run in full."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tunesmith.runs.plain_text import clean
from tunesmith.runs.records import Run, RunError
from tunesmith.runs.states import CANCELLED, FAILED, LOST, SUCCEEDED, TERMINAL

STATE_STYLES = {
    "queued": "yellow",
    "starting": "cyan",
    "running": "bold cyan",
    "cancelling": "yellow",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "magenta",
    "lost": "bold red",
}
HEADINGS = ("run", "kind", "state", "progress", "started", "took")
GAP = 2
LEAST_NOTE = 30  # cells; with less room, the note goes on a line of its own
_CALL = re.compile(r"[a-z_]+\(")
ENDED_OTHERWISE = (FAILED, LOST, CANCELLED)


def console_for_people() -> Console:
    """Standard output. Colours and a moving bar only where `is_terminal` holds and the terminal is not dumb."""
    return Console(highlight=False)


def moves(console: Console) -> bool:
    """Whether lines can be drawn over."""
    return console.is_terminal and not console.is_dumb_terminal


def one_line(text: str) -> str:
    """Text from elsewhere, on one line, without control characters."""
    return " ".join(clean(text).split())


def seconds_between(begin: str | None, end: str | None, now: datetime) -> float | None:
    """Seconds from one ISO 8601 time to another (None: until now). Never negative: clocks are set back."""
    if begin is None:
        return None
    last = datetime.fromisoformat(end) if end else now
    return max(0.0, (last - datetime.fromisoformat(begin)).total_seconds())


def span(seconds: float) -> str:
    """A length of time in at most two units: `9 s`, `3 m 20 s`, `2 h 05 m`, `4 d 2 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(seconds: float) -> str:
    """How long ago, in one unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


def size(count: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def progress_text(run: Run) -> str:
    """Percent and steps, as far as they are known."""
    progress, parts = run.progress, []
    if progress.fraction is not None:
        parts.append(f"{round(min(1.0, max(0.0, progress.fraction)) * 100)} %")
    if progress.step is not None:
        parts.append(f"{progress.step}/{progress.total_steps}" if progress.total_steps else f"{progress.step}")
    return " ".join(parts) or "–"


def note(run: Run) -> str:
    """What there is to say about a run on one line: its error, what it made, or what it is doing."""
    if run.error is not None:
        return error_line(run.error, with_next=False)
    if run.state == SUCCEEDED:
        return made(run.result or {})
    if run.state == CANCELLED:
        return "Had to be killed." if run.forced else ""
    return one_line(run.progress.message)


def error_line(error: RunError, *, with_next: bool = True) -> str:
    """A run's error in the form every error has."""
    following = f" Next: {one_line(error.next)}" if with_next else ""
    return f"[{error.code}] {one_line(error.message)}{following}"


def made(result: dict[str, Any]) -> str:
    """The names of what a run left: dataset, model, comparison; the losses of a training."""
    dataset = result.get("dataset")
    found = [dataset.get("dataset_id") if isinstance(dataset, dict) else None]
    found += [result.get(name) for name in ("dataset_id", "model_id", "comparison_id")]
    loss = result.get("eval_loss")
    if isinstance(loss, dict) and all(isinstance(loss.get(name), int | float) for name in ("before", "after")):
        found.append(f"held-out loss {loss['before']:.3f} → {loss['after']:.3f}")
    return ", ".join(one_line(str(part)) for part in found if part)


def table(runs: Sequence[Run], *, width: int | None, now: datetime | None = None) -> list[Text]:
    """The runs as aligned lines under a heading.

    Args:
        width: cells of the terminal; None: no terminal, nothing is shortened.
    """
    now = now or datetime.now(UTC)
    rows = [_cells(run, now) for run in runs]
    widths = [max(cell_len(row[column]) for row in (HEADINGS, *rows)) for column in range(len(HEADINGS))]
    used = sum(widths) + GAP * len(widths)
    beside = width is None or width - used >= LEAST_NOTE
    lines = [Text(aligned((*HEADINGS, "note" if beside else ""), widths), style="bold")]
    for run, cells in zip(runs, rows, strict=True):
        text = note(run)
        below = text and not beside
        shown = text if width is None else shortened(text, width - (4 if below else used))
        line = Text(aligned((*cells, "" if below else shown), widths))
        at = widths[0] + widths[1] + 2 * GAP
        line.stylize(STATE_STYLES[run.state], at, at + len(cells[2]))
        lines.append(line)
        if below:
            lines.append(Text(f"    {shown}", style="dim"))
    return lines


def facts(run: Run, folder: str, now: datetime | None = None) -> list[tuple[str, str]]:
    """What `show` prints of a run, name and value."""
    now = now or datetime.now(UTC)
    state = run.state + (" (it had to be killed)" if run.forced else "")
    found = [("run", run.run_id), ("kind", run.kind), ("state", state)]
    if run.resume_of:
        found.append(("continues", run.resume_of))
    started, took = (seconds_between(run.started_at, end, now) for end in (None, run.finished_at))
    found.append(("created", _local(run.created_at)))
    if run.started_at and started is not None and took is not None:
        found.append(("started", f"{_local(run.started_at)}, {ago(started)}"))
        found.append(("took" if run.finished_at else "running for", span(took)))
    if run.progress.fraction is not None or run.progress.step is not None:
        found.append(("progress", progress_text(run)))
    if run.state not in TERMINAL:
        if run.progress.eta_s is not None:
            found.append(("to go", f"about {span(run.progress.eta_s)}"))
        if run.progress.message:
            found.append(("now", one_line(run.progress.message)))
    if run.checkpoint_step is not None:
        found.append(("checkpoint", f"step {run.checkpoint_step}"))
    if run.result:
        found += [(name, _brief(value)) for name, value in run.result.items()]
    if run.error is not None:
        found.append(("error", error_line(run.error, with_next=False)))
    found.append(("next", next_step(run)))
    found.append(("folder", folder))
    return found


def next_step(run: Run) -> str:
    """What a person can do now."""
    if run.state not in TERMINAL:
        return f"tunesmith runs follow {run.run_id}"
    step = run.checkpoint_step
    if run.state in ENDED_OTHERWISE and step is not None:
        return f"`tunesmith runs resume {run.run_id}` goes on from step {step}."
    if run.state == SUCCEEDED:
        following = one_line(run.next)
        return f"ask your assistant for {following}" if _CALL.match(following) else following
    return one_line(run.error.next if run.error else run.next)


def _cells(run: Run, now: datetime) -> tuple[str, ...]:
    started, took = (seconds_between(run.started_at, end, now) for end in (None, run.finished_at))
    times = ("–" if started is None else ago(started), "–" if took is None else span(took))
    return (run.run_id, run.kind, run.state, progress_text(run), *times)


def aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells side by side, each as wide as its column on the screen; the one after the last column as it is."""
    padded = (set_cell_size(cell, width) + " " * GAP for cell, width in zip(cells[:-1], widths, strict=True))
    return ("".join(padded) + cells[-1]).rstrip()


def shortened(text: str, width: int) -> str:
    """Text of at most `width` cells; the end is left out."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def _local(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _brief(value: Any) -> str:
    if isinstance(value, str):
        return one_line(value)
    text = one_line(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 300 else f"{text[:300]} … (--json shows all)"


def print_facts(console: Console, pairs: Sequence[tuple[str, str]]) -> None:
    """Names aligned, values wrapped under themselves in a terminal, unbroken elsewhere."""
    from rich.table import Table

    wide = max(cell_len(name) for name, _ in pairs)
    if not console.is_terminal:
        for name, value in pairs:
            print(f"{set_cell_size(name, wide)}  {value}".rstrip())
        return
    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(style=Style(dim=True), no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        style = STATE_STYLES.get(value.split(" ", 1)[0], "") if name == "state" else "red" if name == "error" else ""
        grid.add_row(name, Text(value, style=style))
    console.print(grid)
