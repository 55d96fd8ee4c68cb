"""`tunesmith data`: make datasets, look at them, score, clean, split and export them, for people in a terminal."""

from __future__ import annotations

import io
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from tunesmith import cli_ids
from tunesmith.cli_runs import AsJson, Where, open_runs
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, Conflict, InvalidArgument, UserError
from tunesmith.runs.records import Run
from tunesmith.runs.supervisor import Supervisor
from tunesmith.server.settings import Settings

PAGE = 100
STDIN = "-"

Ds = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset's id, or letters it alone begins or ends with.")]
Named = Annotated[str | None, typer.Option("--name", help="A name for people.")]


def application() -> typer.Typer:
    """The commands below `tunesmith data`."""
    app = typer.Typer(no_args_is_help=True, help="Make datasets from notes or files, score, clean, split and export.")
    for name, command in (
        ("list", list_datasets),
        ("show", show),
        ("extract", extract),
        ("import", import_file),
        ("preview", preview),
        ("score", score),
        ("clean", clean),
        ("split", split),
        ("export", export),
        ("add", add),
    ):
        app.command(name)(command)
    return app


def list_datasets(
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Datasets, newest first."""
    from tunesmith.tools.data import DatasetPage

    if limit < 1:
        raise InvalidArgument(f"--limit {limit} is not a number of datasets.", next="Give 1 or more, or --all.")
    runs = open_runs(workspace)
    store = DatasetStore(runs.workspace)
    found, cursor, total = [], None, 0
    while True:
        wanted = PAGE if every else min(PAGE, limit - len(found))
        page, cursor, total = store.page(wanted, cursor)
        found += page
        if cursor is None or (not every and len(found) >= limit):
            break
    if as_json:
        _print_json(DatasetPage(datasets=found, next_cursor=cursor, total=total))
        return
    if not found:
        print(f"No datasets in {runs.workspace.root} yet.")
        return
    from tunesmith import cli_rows, cli_text

    cli_rows.print_list(cli_text.console_for_people(), found)
    if len(found) < total:
        print(f"The newest {len(found)} of {total}; --all shows every one.", file=sys.stderr)


def show(dataset: Ds, as_json: AsJson = False, workspace: Where = None) -> None:
    """One dataset in full."""
    runs = open_runs(workspace)
    _show(runs, DatasetStore(runs.workspace).get(find_dataset(runs, dataset)), as_json=as_json)


def extract(  # noqa: PLR0917 - typer passes options by name
    source: Annotated[Path, typer.Argument(help="A file or folder of notes.")],
    name: Named = None,
    strategies: Annotated[
        str | None, typer.Option(help="Ways to find pairs, with commas between; default: all.")
    ] = None,
    language: Annotated[str, typer.Option(help="Of the questions: auto, zh or en.")] = "auto",
    include: Annotated[list[str] | None, typer.Option(help="Only files like this. Can be given repeatedly.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No files like this. Can be given repeatedly.")] = None,
    max_answer_chars: Annotated[int, typer.Option(help="Longest answer, characters.")] = 1500,
    llm_model: Annotated[str | None, typer.Option(help="A model that adds pairs, e.g. ollama:NAME.")] = None,
    llm_base_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible endpoint.")] = None,
    llm_pairs: Annotated[int, typer.Option(help="Pairs it adds for a section, at most.")] = 3,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Questions and answers out of notes, each with its source lines."""
    from tunesmith.tools.data import ALL_STRATEGIES

    if language not in ("auto", "zh", "en"):
        raise InvalidArgument(f"--language {language[:40]!r} is unknown.", next="Use auto, zh or en.")
    wanted = ALL_STRATEGIES if strategies is None else [part.strip() for part in strategies.split(",") if part.strip()]
    for one in wanted:
        if one not in ALL_STRATEGIES:
            raise InvalidArgument(f"There is no strategy {one[:40]!r}.", next=f"Use {', '.join(ALL_STRATEGIES)}.")
    path = source.expanduser().absolute()
    runs = open_runs(workspace, reads=path, make=True)
    runs.workspace.roots.resolve(path)
    args: dict[str, Any] = {
        "source": str(path),
        "strategies": list(wanted),
        "name": name,
        "include": include,
        "exclude": exclude,
        "language": language,
        "max_answer_chars": max_answer_chars,
    }
    if llm_model is not None:
        from tunesmith.data.llm_options import LlmOptions, read_options
        from tunesmith.models.answering import answering_reference

        llm = {"model": llm_model, "pairs_per_section": llm_pairs}
        options = read_options(LlmOptions, "llm", llm | ({"base_url": llm_base_url} if llm_base_url else {}))
        answering_reference(runs.workspace, options.model, options.base_url)
        args |= {"llm": options.model_dump(), "ollama_host": Settings().ollama_host}
    run = _work(runs, "extract", args, quiet=as_json)
    if as_json:
        _print_json(run)
        return
    result = run.result or {}
    from tunesmith import cli_text

    sections, files = result["sections"], result["files"]
    dataset_id = result["dataset"]["dataset_id"]
    pairs = [
        ("dataset", dataset_id),
        ("rows", f"{result['dataset']['rows']:,}"),
        ("by strategy", ", ".join(f"{way} {count:,}" for way, count in result["by_strategy"].items() if count)),
        ("sections", f"{sections['used']:,} of {sections['total']:,} used"),
        ("files", f"{files['read']:,} read, {files['skipped_total']:,} not"),
        ("skipped", str(DatasetStore(runs.workspace).report_path(dataset_id, "skipped.jsonl"))),
        ("next", f"tunesmith data score {dataset_id}"),
    ]
    cli_text.print_facts(cli_text.console_for_people(), pairs)


def import_file(  # noqa: PLR0917 - typer passes options by name
    source: Annotated[str, typer.Argument(help="A JSON, JSONL, CSV or Parquet file, also .gz, or a Hub id.")],
    format: Annotated[
        str, typer.Option(help="auto, alpaca, sharegpt, messages, prompt_completion or preference.")
    ] = "auto",
    name: Named = None,
    split: Annotated[str | None, typer.Option(help="Take only this split: train or eval.")] = None,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Rows that are there already; bad ones are rejected by line with a reason."""
    from tunesmith.data.importing import check_arguments, import_dataset, is_small
    from tunesmith.data.results import ImportResult

    check_arguments(format, split)
    path = Path(source).expanduser().absolute()
    given = str(path) if path.exists() or (path.parent.exists() and "/" not in source) else source
    runs = open_runs(workspace, reads=path if path.exists() else None, make=True)
    args = {"format": format, "name": name, "split": split}
    if is_small(runs.workspace, given):
        result = import_dataset(runs.workspace, given, **args)
    else:
        result = ImportResult(**_result(_work(runs, "import", {"source": given, **args}, quiet=as_json)))
    if as_json:
        _print_json(result)
        return
    from tunesmith import cli_text

    console = cli_text.console_for_people()
    pairs = [("dataset", result.dataset_id), ("rows", f"{result.rows:,}"), ("format", result.format)]
    if result.other_splits:
        pairs.append(("other splits", f"{result.other_splits:,} rows left out"))
    pairs += [("rejected", f"line {each.line:,}: {cli_text.one_line(each.reason)}") for each in result.rejected[:5]]
    if result.rejected_total > 5:
        pairs.append(("", f"and {result.rejected_total - 5:,} more"))
    if result.rejected_file:
        pairs.append(("all of them", result.rejected_file))
    cli_text.print_facts(console, [*pairs, ("next", f"tunesmith data score {result.dataset_id}")])


def preview(  # noqa: PLR0917 - typer passes options by name
    dataset: Ds,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Rows.")] = 5,
    cursor: Annotated[str | None, typer.Option(help="Go on where the page before ended.")] = None,
    render: Annotated[bool, typer.Option("--render", help="Show the exact text trained on.")] = False,
    base_model: Annotated[str | None, typer.Option(help="For --render; default: embedded.")] = None,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Rows with their source lines."""
    from tunesmith.runs.watching import Watcher
    from tunesmith.tools import data
    from tunesmith.tools.services import Services

    runs = open_runs(workspace)
    services = Services(workspace=runs.workspace, runs=runs, watcher=Watcher(runs), ollama_host=Settings().ollama_host)
    (tool,) = (spec.fn for spec in data.tools(services) if spec.fn.__name__ == "preview_dataset")
    dataset_id = find_dataset(runs, dataset)
    page: data.Preview = tool(dataset_id, limit=limit, cursor=cursor, render=render, base_model=base_model)
    if as_json:
        _print_json(page)
        return
    from tunesmith import cli_rows, cli_text

    console = cli_text.console_for_people()
    for entry in page.rows:
        cli_rows.print_row(console, entry.row, entry.rendered)
    if page.note:
        print(page.note, file=sys.stderr)
    if page.next_cursor:
        more = f"tunesmith data preview {dataset_id} --cursor {page.next_cursor}"
        print(f"{page.total:,} rows in all; go on: {more}", file=sys.stderr)


def score(
    dataset: Ds,
    base_model: Annotated[str | None, typer.Option(help="Count tokens for this base.")] = None,
    against: Annotated[str | None, typer.Option(metavar="DATASET", help="Look for leaks into this one.")] = None,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """What is wrong with a dataset: the findings as a table, and the path of the report last."""
    runs = open_runs(workspace)
    args = {"dataset_id": find_dataset(runs, dataset), "base_model": base_model}
    args["against"] = None if against is None else find_dataset(runs, against)
    run = _work(runs, "score", args, quiet=as_json)
    if as_json:
        _print_json(run)
        return
    from tunesmith import cli_rows, cli_text

    cli_rows.print_findings(cli_text.console_for_people(), _result(run))


def clean(  # noqa: PLR0917 - typer passes options by name
    dataset: Ds,
    drop: Annotated[
        str | None, typer.Option(help="Checks whose rows go, with commas; default: errors, copies.")
    ] = None,
    truncate_chars: Annotated[int, typer.Option(help="Cut long answers at a sentence; 0: never.")] = 1500,
    redact: Annotated[str, typer.Option(help="pii,secret, one of them, or nothing: ''.")] = "pii,secret",
    near_duplicate_threshold: Annotated[float, typer.Option(help="Jaccard similarity, 0.5 to 1.")] = 0.8,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """A new dataset without the rows that fail checks."""
    runs = open_runs(workspace)
    args = {
        "dataset_id": find_dataset(runs, dataset),
        "drop": None if drop is None else _parts(drop),
        "truncate_chars": truncate_chars or None,
        "redact": _parts(redact),
        "near_duplicate_threshold": near_duplicate_threshold,
    }
    run = _work(runs, "clean", args, quiet=as_json)
    result = _result(run)
    if as_json:
        print(json.dumps({**result, "run_id": run.run_id}, indent=2, ensure_ascii=False))
        return
    from tunesmith import cli_text

    dropped = ", ".join(f"{check} {count:,}" for check, count in result["by_check"].items())
    edited = ", ".join(f"{check} {count:,}" for check, count in result["edited_by_check"].items())
    pairs = [
        ("dataset", result["dataset_id"]),
        ("kept", f"{result['kept']:,} of {result['rows_in']:,} rows"),
        ("dropped", f"{result['dropped']:,}" + (f": {dropped}" if dropped else "")),
        ("edited", f"{result['edited']:,}" + (f": {edited}" if edited else "")),
        ("next", f"tunesmith data split {result['dataset_id']}"),
    ]
    cli_text.print_facts(cli_text.console_for_people(), pairs)


def split(
    dataset: Ds,
    eval_fraction: Annotated[float, typer.Option(help="Share held out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Same seed, same split.")] = 42,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """A new dataset in train and eval; no section and no near-duplicate pair crosses."""
    from tunesmith.data.records import Dataset
    from tunesmith.data.splitting import split as split_rows
    from tunesmith.tools.data import FEW_ROWS

    runs = open_runs(workspace)
    dataset_id = find_dataset(runs, dataset)
    args = {"eval_fraction": eval_fraction, "seed": seed}
    if DatasetStore(runs.workspace).get(dataset_id).rows <= FEW_ROWS:
        made = split_rows(runs.workspace, dataset_id, **args)
    else:
        made = Dataset(**_result(_work(runs, "split", {"dataset_id": dataset_id, **args}, quiet=as_json)))
    _show(runs, made, as_json=as_json)


def export(  # noqa: PLR0917 - typer passes options by name
    dataset: Ds,
    format: Annotated[str, typer.Option(help="alpaca, sharegpt, messages, prompt_completion or preference.")],
    path: Annotated[Path | None, typer.Option(help="A .jsonl or .json file; default: beside the rows.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Write a dataset to a file for another tool."""
    from tunesmith.data.exporting import check_export, export_dataset, is_small
    from tunesmith.data.results import ExportResult

    target = None if path is None else path.expanduser().absolute()
    runs = open_runs(workspace, reads=None if target is None else target.parent)
    dataset_id = find_dataset(runs, dataset)
    args: dict[str, Any] = {"format": format, "path": None if target is None else str(target), "overwrite": overwrite}
    if is_small(runs.workspace, dataset_id):
        result = export_dataset(runs.workspace, dataset_id, **args)
    else:
        check_export(runs.workspace, dataset_id, **args)
        run = _work(runs, "write", {"dataset_id": dataset_id, **args}, quiet=as_json)
        result = ExportResult(**_result(run))
    if as_json:
        _print_json(result)
        return
    from tunesmith import cli_text

    pairs = [("file", result.path), ("rows", f"{result.rows:,}"), ("size", cli_text.size(result.bytes))]
    pairs.append(("sha256", result.sha256))
    if result.llama_factory:
        # The entry that its dataset_info.json needs.
        pairs.append(("llama-factory", json.dumps(result.llama_factory)))
    cli_text.print_facts(cli_text.console_for_people(), pairs)


def add(
    dataset: Ds,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Rows {instruction, input?, output, system?}.")],
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """A new dataset with examples of your own added; the old one stays."""
    from tunesmith.data.editing import add_examples
    from tunesmith.data.row_files import read_records

    path = None if file == STDIN else Path(file).expanduser().absolute()
    runs = open_runs(workspace, reads=path)
    dataset_id = find_dataset(runs, dataset)
    with ExitStack() as opened:
        given = io.BytesIO(sys.stdin.buffer.read()) if path is None else runs.workspace.roots.open(path)
        records = list(read_records(opened.enter_context(given), path.name if path else "standard input", opened))
    for line, record in records:
        if not isinstance(record, dict):
            raise BadInput(f"Line {line} is not an example: {record}.", next="Mend that line; nothing was added.")
    made = add_examples(runs.workspace, dataset_id, [record for _line, record in records if isinstance(record, dict)])
    _show(runs, made, as_json=as_json)


def find_dataset(runs: Supervisor, text: str) -> str:
    """The id of the dataset meant by `text`. Raises as `cli_ids.find`."""
    ids = [row[0] for row in runs.workspace.database.read("SELECT id FROM datasets ORDER BY seq DESC")]
    return cli_ids.find("ds", text, ids, runs.workspace.root)


def _work(runs: Supervisor, kind: str, args: dict[str, Any], *, quiet: bool) -> Run:
    """A run of the data room, shown on standard error until it has succeeded.

    Args:
        quiet: show no progress.

    Raises:
        UserError: the run's own error, if it failed.
    """
    from rich.console import Console

    from tunesmith import cli_follow, cli_text
    from tunesmith.work import worker_command

    run_id = runs.submit(kind, worker_command("data"), args)
    console = Console(stderr=True, highlight=False, quiet=quiet)
    if cli_follow.watch(runs, run_id, console) is None:
        sys.exit(cli_follow.STOPPED)
    run = runs.view(run_id)
    if run.error is not None:
        error = run.error
        raise UserError(cli_text.one_line(error.message), next=cli_text.one_line(error.next), code=error.code)
    if run.result is None:
        raise Conflict(f"Run {run_id} was {run.state}.", next=f"Read it: tunesmith runs show {run_id}.")
    return run


def _result(run: Run) -> dict[str, Any]:
    return run.result or {}


def _show(runs: Supervisor, dataset: Any, *, as_json: bool) -> None:
    if as_json:
        _print_json(dataset)
        return
    from tunesmith import cli_rows, cli_text

    folder = str(DatasetStore(runs.workspace).folder(dataset.dataset_id))
    cli_text.print_facts(cli_text.console_for_people(), cli_rows.facts(dataset, folder))


def _print_json(what: BaseModel) -> None:
    print(what.model_dump_json(indent=2))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
