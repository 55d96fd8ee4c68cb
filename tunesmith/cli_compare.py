"""`tunesmith compare`, `score-sheet`, `record-scores`, `comparisons`, for people in a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith import cli_ids
from tunesmith.cli_data import STDIN, find_dataset
from tunesmith.cli_runs import AsJson, Where, open_runs
from tunesmith.errors import Conflict, InvalidArgument, UserError
from tunesmith.runs.supervisor import Supervisor
from tunesmith.server.settings import Settings

if TYPE_CHECKING:
    from tunesmith.evaluation.records import Comparison
    from tunesmith.runs.records import Run

PAGE = 100

Cmp = Annotated[
    str, typer.Argument(metavar="COMPARISON", help="A comparison's id, or letters it alone begins or ends with.")
]


def application() -> typer.Typer:
    """The commands below `tunesmith comparisons`."""
    app = typer.Typer(no_args_is_help=True, help="Look at comparisons.")
    app.command("list")(list_comparisons)
    app.command("show")(show)
    return app


def compare(  # noqa: PLR0917 - typer passes options by name
    models: Annotated[
        list[str],
        typer.Argument(metavar="[LABEL=]MODEL...", help="Two or more, e.g. base=embedded tuned=run_… gpt=openai:NAME."),
    ],
    questions: Annotated[
        Path | None, typer.Option(help="JSON, JSONL or CSV with question and reference, or lines of text.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Ask its eval split instead of questions.")
    ] = None,
    judge: Annotated[str | None, typer.Option(metavar="MODEL", help="A model that scores, none of those.")] = None,
    judge_base_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible endpoint.")] = None,
    repetitions: Annotated[int, typer.Option(help="Times each question is asked.")] = 1,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Longest reply, tokens.")] = 500,
    seed: Annotated[int, typer.Option(help="Of sampling and intervals.")] = 42,
    max_questions: Annotated[
        int | None, typer.Option(help="Ask so many at most, drawn by the seed; confirms a large comparison.")
    ] = None,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Ask several models the same, and say which answers better; the verdict may be "no evidence"."""
    from tunesmith.evaluation.question_files import read_questions
    from tunesmith.evaluation.request import check_request, read_request

    path = None if questions is None else questions.expanduser().absolute()
    runs = open_runs(workspace, reads=path)
    asked = None
    if path is not None:
        with runs.workspace.roots.open(path) as file:
            asked = [one.model_dump() for one in read_questions(file.read(), path.name)]
    if judge is None and judge_base_url is not None:
        raise InvalidArgument("--judge-base-url is given without --judge.", next="Name the model with --judge.")
    args: dict[str, Any] = {
        "models": [_labelled(text) for text in models],
        "questions": asked,
        "dataset_id": None if dataset is None else find_dataset(runs, dataset),
        "judge": None if judge is None else {"model": judge, "base_url": judge_base_url},
        "repetitions": repetitions,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "seed": seed,
        "max_questions": max_questions,
    }
    host = Settings().ollama_host
    check_request(runs.workspace, read_request(args), host)
    run = _work(runs, args | {"ollama_host": host}, quiet=as_json)
    if as_json:
        print(run.model_dump_json(indent=2))
        return
    from tunesmith.evaluation.store import ComparisonStore

    _print(ComparisonStore(runs.workspace).get((run.result or {})["comparison_id"]))


def list_comparisons(
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Comparisons, newest first."""
    from tunesmith.evaluation.store import ComparisonPage, ComparisonStore

    if limit < 1:
        raise InvalidArgument(f"--limit {limit} is not a number of comparisons.", next="Give 1 or more, or --all.")
    runs = open_runs(workspace)
    store = ComparisonStore(runs.workspace)
    found, cursor, total = [], None, 0
    while True:
        page, cursor, total = store.page(PAGE if every else min(PAGE, limit - len(found)), cursor)
        found += page
        if cursor is None or (not every and len(found) >= limit):
            break
    if as_json:
        print(ComparisonPage(comparisons=found, next_cursor=cursor, total=total).model_dump_json(indent=2))
        return
    if not found:
        print(f"No comparisons in {runs.workspace.root} yet.")
        return
    from tunesmith import cli_comparisons, cli_text

    cli_comparisons.print_list(cli_text.console_for_people(), found)
    if len(found) < total:
        print(f"The newest {len(found)} of {total}; --all shows every one.", file=sys.stderr)


def show(comparison: Cmp, as_json: AsJson = False, workspace: Where = None) -> None:
    """One comparison: its verdict, the scores, and where the report lies."""
    from tunesmith.evaluation.store import ComparisonStore

    runs = open_runs(workspace)
    _show(ComparisonStore(runs.workspace).get(find_comparison(runs, comparison)), as_json=as_json)


def score_sheet(  # noqa: PLR0917 - typer passes options by name
    comparison: Cmp,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .html page or a .csv table; default: COMPARISON-sheet.html.")
    ] = None,
    questions: Annotated[int | None, typer.Option(help="So many at most, drawn by the seed.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Of the order; default: its own.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    workspace: Where = None,
) -> None:
    """A sheet to score answers on by hand, without seeing which model wrote them; record-scores reads it back."""
    from tunesmith.evaluation.human_sheet import make_sheet, sheet_csv
    from tunesmith.evaluation.human_sheet_html import sheet_html
    from tunesmith.files import write_atomic

    kind = ".html" if to is None else to.suffix.lower()
    if kind not in (".html", ".csv"):
        raise InvalidArgument(f"A sheet is a page or a table, not {kind[:20]!r}.", next="Give a .html or a .csv file.")
    named = None if to is None else to.expanduser().absolute()
    runs = open_runs(workspace, reads=Path.cwd() if named is None else named.parent)
    comparison_id = find_comparison(runs, comparison)
    target = runs.workspace.roots.resolve_new(named or Path.cwd() / f"{comparison_id}-sheet.html")
    if target.exists() and not overwrite:
        raise Conflict(f"{target} exists already.", next="Choose another name with --to, or add --overwrite.")
    sheet = make_sheet(runs.workspace, comparison_id, seed=seed, most=questions)
    write_atomic(target, sheet_html(sheet) if kind == ".html" else sheet_csv(sheet))
    how = "Open it in a browser, score, and save the scores" if kind == ".html" else "Fill in the scores, save as CSV"
    from tunesmith import cli_text

    filled = f"{comparison_id}-scores-{sheet.seed}.csv" if kind == ".html" else target.name
    facts = [
        ("sheet", str(target)),
        ("to score", f"{sheet.answers:,} answers to {len(sheet.questions):,} questions"),
        ("how", f"{how}; whole numbers from 1 to 5."),
        ("next", f"tunesmith record-scores {comparison_id} {filled}"),
    ]
    cli_text.print_facts(cli_text.console_for_people(), facts)


def record_scores(
    comparison: Cmp,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A filled sheet, or scores by label as CSV or JSON.")],
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who scored, where several people do.")] = None,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Keep what a person says of answers, and conclude anew; the judge's scores stay beside it."""
    from tunesmith.evaluation.human import record_scores as record
    from tunesmith.evaluation.human import scorable
    from tunesmith.evaluation.human_reading import read_filled

    path = None if file == STDIN else Path(file).expanduser().absolute()
    runs = open_runs(workspace, reads=path)
    comparison_id = find_comparison(runs, comparison)
    scorable(runs.workspace, comparison_id)
    if path is None:
        content, name = sys.stdin.buffer.read(), "standard input"
    else:
        with runs.workspace.roots.open(path) as opened:
            content, name = opened.read(), path.name
    filled = read_filled(runs.workspace, comparison_id, content, name)
    via = "sheet" if filled.blind else "cli"
    found = record(
        runs.workspace, comparison_id, filled.entries, by=by, via=via, blind=filled.blind, where=filled.where
    )
    if not as_json:
        left = f"; {filled.empty:,} are not filled in" if filled.empty else ""
        print(f"{len(filled.entries):,} answers scored{left}.")
    _show(found, as_json=as_json)


def find_comparison(runs: Supervisor, text: str) -> str:
    """The id of the comparison meant by `text`; one that is still being made too. Raises as `cli_ids.find`."""
    from tunesmith.evaluation.store import ComparisonStore

    begun = [folder.name for folder in runs.workspace.comparisons.glob("cmp_*") if folder.is_dir()]
    ids = dict.fromkeys([*ComparisonStore(runs.workspace).ids(), *begun])
    return cli_ids.find("cmp", text, list(ids), runs.workspace.root)


def _labelled(text: str) -> dict[str, str]:
    """`LABEL=MODEL`; without a label the model's own name. An equals sign inside a model's address begins none."""
    label, equals, model = text.partition("=")
    if not equals or any(sign in label for sign in ":/"):
        return {"label": text.strip()[:60], "model": text.strip()}
    if not label.strip() or not model.strip():
        raise InvalidArgument(f"{text[:60]!r} is not LABEL=MODEL.", next="Write it as in tuned=run_abcdefghijkl.")
    return {"label": label.strip(), "model": model.strip()}


def _work(runs: Supervisor, args: dict[str, Any], *, quiet: bool) -> Run:
    """A comparison's run, shown on standard error until it has succeeded. Raises its own error if it failed."""
    from rich.console import Console

    from tunesmith import cli_follow, cli_text
    from tunesmith.work import worker_command

    run_id = runs.submit("compare", worker_command("evaluation"), args)
    if cli_follow.watch(runs, run_id, Console(stderr=True, highlight=False, quiet=quiet)) is None:
        sys.exit(cli_follow.STOPPED)
    run = runs.view(run_id)
    if run.error is not None:
        error = run.error
        raise UserError(cli_text.one_line(error.message), next=cli_text.one_line(error.next), code=error.code)
    if run.result is None:
        raise Conflict(f"Run {run_id} was {run.state}.", next=f"Read it: tunesmith runs show {run_id}.")
    return run


def _show(comparison: Comparison, *, as_json: bool) -> None:
    if as_json:
        print(comparison.model_dump_json(indent=2, by_alias=True))
    else:
        _print(comparison)


def _print(comparison: Comparison) -> None:
    from tunesmith import cli_comparisons, cli_text

    cli_comparisons.print_one(cli_text.console_for_people(), comparison)
