"""The command `tunesmith`. Commands import what they need when they run; `serve` touches neither typer nor rich."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tunesmith.errors import UserError

if TYPE_CHECKING:
    import argparse

    import typer
    from rich.console import RenderableType

    from tunesmith.machine.records import MachineReport


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 an error that was shown in one line, 2 wrong usage."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["serve"]:
            serve(arguments[1:])
        else:
            application()(prog_name="tunesmith")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def serve(arguments: list[str]) -> None:
    """`tunesmith serve`: MCP over stdio, or over HTTP with --http. A client waits for its start, so it is kept lean."""
    options = _serve_parser().parse_args(arguments)
    from tunesmith.server.app import serve_http, serve_stdio
    from tunesmith.server.settings import Settings

    given: dict[str, Any] = {}  # what is left out keeps its TUNESMITH_ variable, or the default
    if options.workspace is not None:
        given["workspace"] = options.workspace
    if options.allow_root:
        given["allow_roots"] = options.allow_root
    if options.read_only:
        given["read_only"] = True
    settings = Settings(**given)
    if options.http:
        serve_http(settings, options.host, options.port)
    else:
        serve_stdio(settings)


def _serve_parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="tunesmith serve", description="Serve MCP over stdio, or over HTTP.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--workspace", type=Path, metavar="DIR", help="Where datasets, runs and models lie.")
    add(
        "--allow-root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="A folder from which files may be read. Can be given more than once.",
    )
    add("--http", action="store_true", help="Streamable HTTP instead of stdio.")
    add("--host", default="127.0.0.1", help="With --http: the address to listen on (default: %(default)s).")
    add("--port", type=int, default=8765, help="With --http: the port (default: %(default)s).")
    add("--read-only", action="store_true", help="Offer only the tools that change nothing.")
    return parser


def application() -> typer.Typer:
    """Every command. `serve` is here for the help alone: `main` runs it without typer."""
    import typer

    from tunesmith import cli_compare, cli_data, cli_runs, cli_serve

    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    @app.callback()
    def tunesmith() -> None:
        """Fine-tune a language model on your own notes, through an AI assistant."""

    @app.command("serve", add_help_option=False)
    def _serve() -> None:
        """Serve MCP over stdio, or over HTTP with --http. `serve --help` lists its options."""
        serve([])

    app.command("serve-model")(cli_serve.serve_model)
    app.command("compare")(cli_compare.compare)
    app.command("score-sheet")(cli_compare.score_sheet)
    app.command("record-scores")(cli_compare.record_scores)
    app.add_typer(cli_compare.application(), name="comparisons")
    app.add_typer(cli_data.application(), name="data")
    app.add_typer(cli_runs.application(), name="runs")
    app.command("demo")(demo)
    app.command("doctor")(doctor)
    app.command("install")(install)
    app.command("version")(version)
    return app


def demo(workspace: Path | None = None) -> None:
    """Run the whole pipeline on the built-in notes and model, in --workspace (default: ./.demo)."""
    from tunesmith.demo import run_demo

    sys.exit(run_demo(workspace))


def doctor(probe: bool = False, json: bool = False) -> None:  # the name is the option's
    """Say what this machine can do and what is in the way. --probe imports and uses the GPU packages, up to 40 s."""
    from tunesmith.machine.check import check_machine
    from tunesmith.server.settings import Settings
    from tunesmith.workspace import Workspace

    settings = Settings()
    report = check_machine(Workspace(settings.workspace_folder()), probe=probe, ollama_host=settings.ollama_host)
    if json:
        print(report.model_dump_json(indent=2))
        return
    from rich.console import Console

    console = Console()
    for part in _report_for_people(report):
        console.print(part, soft_wrap=isinstance(part, str))


def _report_for_people(report: MachineReport) -> list[RenderableType]:
    from rich.markup import escape
    from rich.table import Table

    facts = Table(title="This machine", show_header=False)
    for name, value in _facts(report):
        facts.add_row(name, escape(value))
    packages = Table(title="Packages")
    for heading in ("package", "version", "state"):
        packages.add_column(heading)
    for name, package in report.packages.items():
        state = "[green]ok[/green]" if package.ok else escape(package.problem or "not needed here")
        packages.add_row(name, package.version or "–", state)
    parts: list[RenderableType] = [facts, packages]
    parts += [
        f"[yellow]{problem.code}[/yellow]: {escape(problem.message)}\n    → {escape(problem.fix)}"
        for problem in report.problems
    ]
    if not report.problems:
        parts.append("[green]Nothing is in the way.[/green]")
    return parts


def _facts(report: MachineReport) -> list[tuple[str, str]]:
    torch, ollama, llama, best = report.torch, report.ollama, report.llama_cpp, report.recommended
    gpus = [
        f"{gpu.name}: {gpu.free_gib} of {gpu.total_gib} GiB free" + (", bf16" if gpu.bf16 else "")
        for gpu in report.gpus
    ]
    return [
        ("Python", report.python),
        ("Platform", report.platform),
        ("GPU", "\n".join(gpus) or "none"),
        ("PyTorch", f"{torch.version}, {f'CUDA {torch.cuda}' if torch.cuda else 'CPU'}" if torch.installed else "–"),
        ("Ollama", f"{ollama.version}, {len(ollama.loaded)} models loaded" if ollama.reachable else "not reachable"),
        ("llama.cpp", f"{'complete' if llama.complete else 'incomplete'}, from {llama.source or 'nowhere'}"),
        ("Memory free", f"{report.ram_free_gib} GiB"),
        ("Disk free", f"{report.disk_free_gib} GiB"),
        ("Can train", "yes" if report.can_train else "no"),
        ("Recommended", f"{best.base_model}, {best.method}, {best.engine}: {best.reason}"),
    ]


def install() -> None:
    """Print what to paste into Claude Desktop or run for Claude Code. Writes nothing."""
    import shlex

    command = [sys.executable, "-P", "-m", "tunesmith", "serve"]
    notes = ["--allow-root", str(Path.home() / "notes")]
    block = {"mcpServers": {"tunesmith": {"command": command[0], "args": [*command[1:], *notes]}}}
    print("Claude Desktop: merge into claude_desktop_config.json (Settings > Developer > Edit Config):\n")
    print(json.dumps(block, indent=2, ensure_ascii=False))
    print("\nClaude Code: run\n")
    print(shlex.join(["claude", "mcp", "add", "tunesmith", "--", *command, *notes]))
    print("\nPut the folder your notes are in after --allow-root; nothing outside it can be read.")


def version() -> None:
    """Print the version."""
    from tunesmith import __version__

    print(__version__)
