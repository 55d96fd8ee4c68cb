"""`tunesmith runs follow`: the lines of a run's log as they come, a bar below them, and how it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.text import Text

from tunesmith import cli_text
from tunesmith.runs import log
from tunesmith.runs.records import Run
from tunesmith.runs.states import QUEUED, SUCCEEDED, TERMINAL
from tunesmith.runs.supervisor import Supervisor

POLL_S = 0.2
PLAIN_PROGRESS_S = 10.0  # without a terminal a line about progress comes at most this often
LINE_LIMIT = 2000  # characters of a line that are shown
STOPPED = 130  # the exit status after Ctrl-C


class NewLines:
    """The whole lines that were added to a file since the last look.

    Args:
        offset: byte to begin at; None: with the last 32 KiB.

    Attributes:
        skipped: whether something was left out before the first line.
    """

    def __init__(self, path: Path, offset: int | None = None) -> None:
        self.path = path
        self.skipped = False
        self._offset = offset
        self._half = ""

    def take(self, *, finished: bool = False) -> Iterator[str]:
        """What there is to read now; it is read piece by piece, however much it is.

        Args:
            finished: whether nothing more will be written, so that a last line without its end is one too.
        """
        goal: int | None = None  # a file that grows faster than it is shown must not keep us here
        while True:
            piece = log.read(self.path, self._offset, finished=finished)
            self.skipped = self.skipped or (self._offset is None and piece.start > 0)
            stuck = piece.end == self._offset
            goal = piece.size if goal is None else goal
            self._offset = piece.end
            *whole, half = (self._half + piece.text).split("\n")
            # A line without an end must not fill the memory.
            self._half = half[: LINE_LIMIT + 1]
            yield from (_cut(line) for line in whole if line.strip())
            if stuck or piece.end >= goal:
                break
        if finished and self._half.strip():
            yield _cut(self._half)
            self._half = ""


class Measured:
    """The newest training loss and speed of a run."""

    def __init__(self, run_dir: Path) -> None:
        self._lines = NewLines(run_dir / "metrics.jsonl")
        self.loss: float | None = None
        self.tokens_per_s: float | None = None

    def look(self) -> None:
        """Read what was added."""
        for line in self._lines.take():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # half a line, left by a crash
            if isinstance(record, dict):
                self.loss = _number(record.get("loss"), self.loss)
                self.tokens_per_s = _number(record.get("tokens_per_s"), self.tokens_per_s)


class Bar(Progress):
    """A bar that leaves room at the right edge: the `^C` a terminal shows there would break its line in two."""

    def get_renderable(self) -> RenderableType:
        return _Narrower(super().get_renderable())


class _Narrower:
    def __init__(self, what: RenderableType) -> None:
        self.what = what

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.what, options.update_width(max(1, options.max_width - 4)))


def follow(runs: Supervisor, run_id: str, console: Console) -> int:
    """Show a run until it ends.

    Returns:
        0: it succeeded; 1: it failed, was cancelled or lost; 130: Ctrl-C, the run goes on.
    """
    run = watch(runs, run_id, console)
    if run is None:
        return STOPPED
    _show_end(run, console)
    return 0 if run.state == SUCCEEDED else 1


def watch(runs: Supervisor, run_id: str, console: Console) -> Run | None:
    """Show a run until it ends, but not how it ended. None after Ctrl-C: the run goes on, and that was said."""
    try:
        return (_with_bar if cli_text.moves(console) else _plainly)(runs, run_id, console)
    except KeyboardInterrupt:
        _print(console, f"Stopped following. The run goes on: tunesmith runs follow {run_id}")
        _print(console, f"To cancel it: tunesmith runs cancel {run_id}")
        return None


def wait_for_end(runs: Supervisor, run_id: str, console: Console) -> Run:
    """Wait for a run that is ending; a spinner with what it does meanwhile."""
    if not cli_text.moves(console):
        return _poll(runs, run_id, lambda _run: None)
    with console.status(f"{run_id} is ending") as status:

        def show(run: Run) -> None:
            status.update(Text(f"{run_id} is ending. {cli_text.note(run)}", overflow="ellipsis", no_wrap=True))

        return _poll(runs, run_id, show)


def _poll(runs: Supervisor, run_id: str, show: Callable[[Run], None]) -> Run:
    """Look at a run again and again until it has ended; every look is shown."""
    while True:
        run = runs.view(run_id, log_lines=0)
        show(run)
        if run.state in TERMINAL:
            return run
        time.sleep(POLL_S)


def _with_bar(runs: Supervisor, run_id: str, console: Console) -> Run:
    lines = NewLines(runs.folder(run_id) / "log.txt")
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    measured = Measured(runs.folder(run_id))
    with Bar(*columns, console=console, transient=True, expand=True) as display:
        bar = display.add_task(run_id, total=None, note="")

        def show(run: Run) -> None:
            _print_lines(console, lines, lines.take(finished=run.state in TERMINAL))
            if run.state in TERMINAL:
                return
            measured.look()
            fraction = run.progress.fraction
            display.update(
                bar,
                description=run.kind if run.state == "running" else f"{run.kind} [yellow]{run.state}[/yellow]",
                total=None if fraction is None else 1.0,
                completed=fraction or 0.0,
                note=_bar_note(run, measured, console.width),
            )

        return _poll(runs, run_id, show)


def _bar_note(run: Run, measured: Measured, width: int) -> str:
    """Step, loss, speed and time to go; or, where there are no steps, what is being done."""
    progress, parts = run.progress, []
    if progress.step is not None and progress.total_steps:
        parts.append(f"{progress.step}/{progress.total_steps}")
        # Before its first step a resumed run has the measurements of the run it continues.
        if measured.loss is not None:
            parts.append(f"loss {measured.loss:.3f}")
        if measured.tokens_per_s is not None:
            parts.append(f"{measured.tokens_per_s:.0f} tokens/s")
    if progress.eta_s is not None:
        parts.append(f"{cli_text.span(progress.eta_s)} left")
    else:
        parts.append(cli_text.one_line(progress.message))
    # Something of the bar has to remain beside it.
    return cli_text.shortened(" · ".join(part for part in parts if part), max(20, width - 24))


def _plainly(runs: Supervisor, run_id: str, console: Console) -> Run:
    """Lines only: all of the log's, one at each change of state, and now and then one about progress."""
    lines = NewLines(runs.folder(run_id) / "log.txt", offset=0)
    state, said, said_at = "", "", time.monotonic()

    def show(run: Run) -> None:
        nonlocal state, said, said_at
        waits = f": {cli_text.one_line(run.progress.message)}" if run.state == QUEUED else "."
        if run.state != state and run.state not in TERMINAL:
            state = run.state
            _print(console, f"{run_id}: {run.kind}, {state}{waits}")
        _print_lines(console, lines, lines.take(finished=run.state in TERMINAL))
        now = f"{cli_text.progress_text(run)}  {cli_text.one_line(run.progress.message)}"
        if now != said and run.state not in (QUEUED, *TERMINAL) and time.monotonic() - said_at >= PLAIN_PROGRESS_S:
            said, said_at = now, time.monotonic()
            _print(console, f"{run_id}: {now}")

    return _poll(runs, run_id, show)


def _print_lines(console: Console, lines: NewLines, taken: Iterable[str]) -> None:
    for line in taken:
        if lines.skipped:
            lines.skipped = False
            _print(console, f"(what comes before is in {lines.path})", style="dim")
        _print(console, line)


def _show_end(run: Run, console: Console) -> None:
    took = cli_text.seconds_between(run.started_at, run.finished_at, datetime.now(UTC))
    after = f" after {cli_text.span(took)}" if took is not None else ""
    made = f": {cli_text.note(run)}" if run.state == SUCCEEDED and cli_text.note(run) else "."
    if run.state != SUCCEEDED and run.forced:
        made = "; it had to be killed."
    _print(console, f"{run.run_id} {run.state}{after}{made}", style=cli_text.STATE_STYLES[run.state])
    if run.error is not None:
        _print(console, cli_text.error_line(run.error))
    following = cli_text.next_step(run)
    if run.error is None or following != cli_text.one_line(run.error.next):
        _print(console, f"Next: {following}")


def _print(console: Console, text: str, style: str = "") -> None:
    # soft_wrap: the terminal breaks long lines, so that they can be copied whole.
    console.print(Text(text, style=style), soft_wrap=True)


def _number(value: Any, otherwise: float | None) -> float | None:
    return float(value) if isinstance(value, int | float) else otherwise


def _cut(line: str) -> str:
    line = line.rstrip()
    return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]} …"
