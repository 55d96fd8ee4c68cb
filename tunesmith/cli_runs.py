"""`tunesmith runs`: list, show, follow, cancel, resume and clean, for people in a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from tunesmith import cli_ids
from tunesmith.errors import Conflict, InvalidArgument, NotFound, WorkspaceUnusable
from tunesmith.runs.outcome import read_result
from tunesmith.runs.records import Kind
from tunesmith.runs.states import ACTIVE, CANCELLED, QUEUED, STATES, SUCCEEDED, TERMINAL
from tunesmith.runs.supervisor import Supervisor
from tunesmith.server.settings import Settings
from tunesmith.workspace import Workspace

PAGE = 100  # runs read at once

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or letters that only it begins or ends with.")]
Where = Annotated[
    Path | None,
    typer.Option(
        "--workspace", metavar="DIR", help="Where the runs lie; default: TUNESMITH_WORKSPACE, or your data folder."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: what the tool of the server answers.")]


def application() -> typer.Typer:
    """The commands below `tunesmith runs`."""
    app = typer.Typer(no_args_is_help=True, help="Look at runs, follow, cancel or resume them, and clean up.")
    app.command("list")(list_runs)
    app.command("show")(show)
    app.command("follow")(follow)
    app.command("cancel")(cancel)
    app.command("resume")(resume)
    app.command("clean")(clean)
    return app


def list_runs(  # noqa: PLR0917 - typer passes options by name
    kind: Annotated[str | None, typer.Option(help=f"Only this kind: {', '.join(get_args(Kind))}.")] = None,
    state: Annotated[str | None, typer.Option(help=f"Only this state: {', '.join(STATES)}.")] = None,
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Runs, newest first."""
    from tunesmith.tools.training import RunPage

    if kind is not None and kind not in get_args(Kind):
        raise InvalidArgument(f"There is no kind {kind!r}.", next=f"Use one of {', '.join(get_args(Kind))}.")
    if state is not None and state not in STATES:
        raise InvalidArgument(f"There is no state {state!r}.", next=f"Use one of {', '.join(STATES)}.")
    if limit < 1:
        raise InvalidArgument(f"--limit {limit} is not a number of runs.", next="Give 1 or more, or --all.")
    runs = open_runs(workspace)
    found, cursor, total = [], None, 0
    while True:
        wanted = PAGE if every else min(PAGE, limit - len(found))
        page, cursor, total = runs.page(kind=kind, state=state, limit=wanted, cursor=cursor)
        found += page
        if cursor is None or (not every and len(found) >= limit):
            break
    if as_json:
        brief = [run.model_copy(update={"result": None}) for run in found]
        print(RunPage(runs=brief, next_cursor=cursor, total=total).model_dump_json(indent=2))
        return
    from tunesmith import cli_text

    if not found:
        print(f"No such runs in {runs.workspace.root}." if kind or state else f"No runs in {runs.workspace.root} yet.")
        return
    console = cli_text.console_for_people()
    # Pages come without results; a person wants to see what was made.
    found = [
        run.model_copy(update={"result": (read_result(runs.folder(run.run_id)) or {}).get("result")})
        if run.state == SUCCEEDED
        else run
        for run in found
    ]
    for line in cli_text.table(found, width=console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True)
    if len(found) < total:
        print(f"The newest {len(found)} of {total}; --all shows every one.", file=sys.stderr)


def show(run: RunId, as_json: AsJson = False, workspace: Where = None) -> None:
    """One run in full: state, progress, result or error, the end of its log."""
    runs = open_runs(workspace)
    run_id = find_run(runs, run)
    found = runs.view(run_id, metrics=True)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    from rich.text import Text

    from tunesmith import cli_text

    console = cli_text.console_for_people()
    cli_text.print_facts(console, cli_text.facts(found, str(runs.folder(run_id))))
    if found.log_tail:
        console.print(Text("\nthe end of its log", style="dim" if console.is_terminal else ""))
    for line in found.log_tail:
        console.print(Text(f"  {line}"), soft_wrap=True)


def follow(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Default: the newest active run.")] = None,
    workspace: Where = None,
) -> None:
    """Show a run's log as it comes, and how far it is, until it ends. Exit code 0: it succeeded; 1: it did not."""
    from tunesmith import cli_follow, cli_text

    runs = open_runs(workspace)
    run_id = newest_active(runs) if run is None else find_run(runs, run)
    sys.exit(cli_follow.follow(runs, run_id, cli_text.console_for_people()))


def cancel(
    run: RunId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    workspace: Where = None,
) -> None:
    """Ask a run to end. A training run saves a checkpoint first."""
    from tunesmith import cli_follow, cli_text

    runs = open_runs(workspace)
    run_id = find_run(runs, run)
    state = runs.row(run_id).state
    if state in TERMINAL:
        raise Conflict(f"Run {run_id} has already ended: {state}.", next=f"Read it: tunesmith runs show {run_id}.")
    now = runs.cancel(run_id).state
    if not wait or now in TERMINAL:
        more = "" if now in TERMINAL else f" Watch it end: tunesmith runs follow {run_id}"
        print(f"{run_id}: {now}.{more}")
        return
    ended = cli_follow.wait_for_end(runs, run_id, cli_text.console_for_people())
    forced = " It had to be killed." if ended.forced else ""
    print(f"{run_id}: {ended.state}.{forced} Next: {cli_text.next_step(ended)}")
    # It may have come to its own end first.
    sys.exit(0 if ended.state == CANCELLED else 1)


def resume(
    run: RunId,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change the recipe, e.g. epochs=5. Can be given repeatedly."),
    ] = None,
    follow_it: Annotated[bool, typer.Option("--follow", help="Follow the new run.")] = False,
    workspace: Where = None,
) -> None:
    """Go on with a training run that ended, from its newest checkpoint, in a new run."""
    from tunesmith.training.resuming import resume_run

    recipe_changes = parse_changes(changes or [])
    runs = open_runs(workspace)
    old_id = find_run(runs, run)
    new_id = resume_run(runs, old_id, recipe_changes)
    print(f"{new_id} continues {old_id}.", flush=True)
    if follow_it:
        from tunesmith import cli_follow, cli_text

        sys.exit(cli_follow.follow(runs, new_id, cli_text.console_for_people()))
    print(f"Next: tunesmith runs follow {new_id}")


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    workspace: Where = None,
) -> None:
    """Remove checkpoints that are no longer needed; every run that can be resumed still can be."""
    from tunesmith import cli_text
    from tunesmith.training.reclaiming import reclaim, reclaimable

    runs = open_runs(workspace)
    found = reclaimable(runs)
    for item in found:
        print(f"{item.run_id}  {cli_text.size(item.bytes):>9}  {item.path.name}: {item.why}")
    if not found:
        print("There is nothing to remove: every checkpoint is still needed.")
    elif dry_run:
        print(f"{cli_text.size(sum(item.bytes for item in found))} would be freed.")
    else:
        print(f"{cli_text.size(sum(reclaim(runs, item) for item in found))} freed.")


def open_runs(workspace: Path | None, *, reads: Path | None = None, make: bool = False) -> Supervisor:
    """The runs of a workspace that is there.

    Args:
        workspace: as given with --workspace; None for TUNESMITH_WORKSPACE or the default, as in `serve`.
        reads: a further folder or file that may be read or written: the person at the terminal named it.
        make: make the workspace if there is none.

    Raises:
        WorkspaceUnusable: there is none, or it cannot be used.
    """
    settings = Settings() if workspace is None else Settings(workspace=workspace)
    folder = settings.workspace_folder()
    try:
        missing = not folder.expanduser().exists()
    except (OSError, RuntimeError):
        missing = False  # too long a name, `~nobody`, no permission: the workspace says which
    if missing and not make:
        # Looking must not make a workspace where a name was mistyped.
        raise WorkspaceUnusable(
            f"There is no workspace {folder.expanduser()}.",
            next="Name one with --workspace or TUNESMITH_WORKSPACE; the first `tunesmith serve` there makes it.",
        )
    named = [] if reads is None else [reads]
    return Supervisor(Workspace(folder, [*settings.roots(), *named]))


def find_run(runs: Supervisor, text: str) -> str:
    """The id of the run meant by `text`: an id, or letters with which exactly one begins or ends.

    Raises:
        InvalidArgument: an id of something else, or several runs fit.
        NotFound: none fits.
    """
    ids = [row[0] for row in runs.store.database.read("SELECT run_id FROM runs ORDER BY seq DESC")]
    return cli_ids.find("run", text, ids, runs.workspace.root)


def newest_active(runs: Supervisor) -> str:
    """The run started last of those that run; else the newest queued one.

    Raises:
        NotFound: nothing runs or waits.
    """
    runs.reconcile_all()
    for states in (ACTIVE, (QUEUED,)):
        rows = [row for state in states for row in runs.store.page(kind=None, state=state, limit=1, before=None)[0]]
        if rows:
            return max(rows, key=lambda row: row.seq).run_id
    raise NotFound(
        f"No run is active in {runs.workspace.root}.", next="Name one; those that ended: tunesmith runs list."
    )


def parse_changes(texts: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as a recipe: values are JSON, and what is not JSON is refused with the way to write it.

    Raises:
        InvalidArgument: no `=`, no name, a name twice, or a value that is not JSON.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier():
            raise InvalidArgument(f"--set {text[:60]!r} is not NAME=VALUE.", next="Write it as in --set epochs=5.")
        if name in changes:
            raise InvalidArgument(f"--set {name} was given twice.", next="Give each name once.")
        try:
            changes[name] = json.loads(value, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InvalidArgument(
                f"--set {name}: {value[:60]!r} is not JSON.",
                next=f"Write numbers as 5 or 0.0002, true, false or null; text in quotes: --set '{name}=\"…\"'.",
            ) from error
    return changes


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
