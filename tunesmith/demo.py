"""The whole pipeline on the built-in notes and model, through an MCP client over stdio.

Everything goes over the wire, as an assistant would do it: the demo imports no room of tunesmith. People see progress
on stderr; stdout gets the tables and, as its last line, JSON for scripts. Cleaning and splitting count into the stage
`score`, planning into `train`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tunesmith.errors import BadInput, NotFound, ServiceFailed, UserError

if TYPE_CHECKING:
    from mcp import Client

RECIPE: dict[str, Any] = {"max_steps": 32, "learning_rate": 0.001, "eval_steps": 16, "save_steps": 32}
OLLAMA_NAME = "tunesmith-demo"
RUNNING = ("queued", "starting", "running", "cancelling")
# A call answers within 50 s; the rest is room for a busy machine.
CALL_TIMEOUT_S = 90.0
CANCEL_TIMEOUT_S = 20.0
# What asks a program to end: Ctrl-C, a plain `kill`, and a terminal that was closed.
STOP_SIGNALS = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StageFailed(Exception):
    """A tool answered with an error, or its run did not succeed. The message is for people."""


@dataclass
class Outcome:
    """What the last line of the demo says."""

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    heldout_loss: dict[str, float] | None = None
    gguf: dict[str, Any] | None = None
    reply: str | None = None

    @property
    def ok(self) -> bool:
        return all(stage.get("ok", True) for stage in self.stages.values())

    def as_line(self) -> str:
        return json.dumps(
            {"stages": self.stages, "heldout_loss": self.heldout_loss, "gguf": self.gguf, "reply": self.reply},
            ensure_ascii=False,
        )


class Demo:
    """One pass through the pipeline.

    Args:
        client: connected to a tunesmith server that may read `notes`.
        notes: folder of notes.
        questions: what base and tuned model are asked: `{question, reference}`.
        display: progress and one line a stage, for people.
        out: where the tables go.
    """

    def __init__(
        self, client: Client, notes: Path, questions: list[dict[str, str]], *, display: Progress, out: Console
    ) -> None:
        self.outcome = Outcome()
        self._client, self._notes, self._questions = client, notes, questions
        self._display, self._out = display, out
        self._bar = display.add_task("", total=None, visible=False, note="")

    async def run(self) -> Outcome:
        """Stage after stage; the first that fails is the last. Its error has been shown then."""
        try:
            with self._stage("extract"):
                machine = await self._machine()
                dataset_id = await self._extract()
            with self._stage("score"):
                dataset_id = await self._prepare(dataset_id)
            with self._stage("train"):
                run_id, model_id = await self._train(dataset_id)
            with self._stage("export"):
                await self._export(run_id)
            await self._register_if_possible(model_id, machine)
            with self._stage("compare"):
                comparison = await self._compare(model_id)
            self._show(comparison)
        except StageFailed as error:
            self._display.console.print(f"[red]{_plain(error)}[/red]")
        return self.outcome

    async def _machine(self) -> dict[str, Any]:
        machine = await call(self._client, "check_gpu", {})
        gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
        self._say(f"{machine['platform']}; {gpus}; {machine['ram_free_gib']} GiB of memory free")
        return machine

    async def _extract(self) -> str:
        result = await self._work("extract_qa", {"source": str(self._notes), "wait_s": 0})
        dataset = result["dataset"]
        self._say(f"{dataset['rows']} examples from {result['files']['read']} notes in {self._notes}")
        return dataset["dataset_id"]

    async def _prepare(self, dataset_id: str) -> str:
        score = await self._work("score_dataset", {"dataset_id": dataset_id, "wait_s": 0})
        self._say(f"{score['passed']} of {score['rows']} examples pass every check: grade {score['grade']}")
        # This tool answers with the new dataset or not at all. Its run takes seconds: interrupted, it comes to its end.
        cleaned = await call(self._client, "clean_dataset", {"dataset_id": dataset_id, "wait_s": 50})
        self._say(f"cleaned: {cleaned['kept']} kept, {cleaned['dropped']} dropped, {cleaned['edited']} edited")
        split = await self._work("split_dataset", {"dataset_id": cleaned["dataset_id"], "eval_fraction": 0.1})
        self._say(f"split: {split['splits']['train']} to train on, {split['splits']['eval']} held out")
        return split["dataset_id"]

    async def _train(self, dataset_id: str) -> tuple[str, str]:
        what = {"dataset_id": dataset_id, "base_model": "embedded", "recipe": RECIPE}
        plan = await call(self._client, "plan_training", what)
        peak = plan["memory"]["predicted_peak_gib"]
        self._say(f"plan: {plan['steps']} steps with {plan['engine']}, {peak} GiB at the peak")
        run = await self._start("start_training", {**what, "wait_s": 0})
        run_id = run["run_id"]
        result = _result(await self._finish(run))
        loss = result["eval_loss"]
        self.outcome.heldout_loss = {"before": loss["before"], "after": loss["after"]}
        self._say(f"held-out loss {loss['before']:.3f} → {loss['after']:.3f} in {result['steps']} steps")
        return run_id, result["model_id"]

    async def _export(self, run_id: str) -> None:
        result = await self._work("export_gguf", {"model": run_id, "quantizations": ["q4_k_m"], "wait_s": 0})
        file = result["files"][0]
        self.outcome.gguf = {"path": file["path"], "bytes": file["bytes"]}
        self._say(f"{file['path']}, {file['bytes'] / 2**20:.0f} MiB")

    async def _register_if_possible(self, model_id: str, machine: dict[str, Any]) -> None:
        if not machine["ollama"]["reachable"]:
            problems = [one["message"] for one in machine["problems"] if one["code"].startswith("ollama")]
            why = problems[0] if problems else "Ollama is not reachable."
            self.outcome.stages["register"] = {"skipped": why}
            self._display.console.print(f"[yellow]–[/yellow] register: skipped. {_plain(why)}")
            return
        with self._stage("register"):
            what = {"model": model_id, "name": OLLAMA_NAME, "quantization": "q4_k_m", "replace": True, "wait_s": 0}
            result = await self._work("register_ollama", what)
            self._say(f"{result['command']}")

    async def _compare(self, model_id: str) -> dict[str, Any]:
        models = [{"label": "base", "model": "embedded"}, {"label": "tuned", "model": model_id}]
        what = {"models": models, "questions": self._questions, "max_tokens": 64, "wait_s": 0}
        comparison = await self._work("compare_models", what)
        failed = {one["label"]: one["first_error"] for one in comparison["models"] if one["errors"]}
        if failed:
            raise StageFailed(f"Questions went unanswered: {failed}.")
        self.outcome.reply = comparison["samples"][0]["replies"]["tuned"]
        return comparison

    def _show(self, comparison: dict[str, Any]) -> None:
        table = Table(title="The same questions, before and after", show_lines=True)
        for heading in ("question", "base answer", "tuned answer"):
            table.add_column(heading, overflow="fold", ratio=1)
        for sample in comparison["samples"]:
            replies = (sample["replies"]["base"], sample["replies"]["tuned"])
            table.add_row(*(_plain(text or "") for text in (sample["question"], *replies)))
        self._out.print(table)
        loss, verdict = self.outcome.heldout_loss, comparison["verdict"]
        if loss:
            share = loss["after"] / loss["before"]
            self._out.print(f"Held-out loss: {loss['before']:.3f} before, {loss['after']:.3f} after ({share:.0%}).")
        self._out.print(f"Verdict: {verdict['answer'].replace('_', ' ')}. {_plain(verdict['why'])}")
        self._out.print(f"Worth it? {comparison['worth_it']['answer']}. Report: {_plain(comparison['report'])}")

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self._display.update(self._bar, description=name, total=None, completed=0, note="", visible=True)
        ok = False
        try:
            yield
            ok = True
        finally:
            seconds = round(time.monotonic() - started, 1)
            self.outcome.stages[name] = {"ok": ok, "seconds": seconds}
            self._display.update(self._bar, visible=False)
            mark = "[green]✓[/green]" if ok else "[red]✗[/red]"
            self._display.console.print(f"{mark} {name}: {seconds} s")

    def _say(self, text: str) -> None:
        self._display.console.print(f"  {_plain(text)}", soft_wrap=True)

    async def _work(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool; of one that works in a run, wait for its end and give its result."""
        answer = await self._start(tool, arguments)
        return _result(await self._finish(answer)) if "run_id" in answer and "state" in answer else answer

    async def _start(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        # Not to be interrupted: a run whose id we never learn is a run we cannot cancel. With wait_s=0 it is short.
        answer: dict[str, Any] = {}
        with anyio.CancelScope(shield=True):
            answer |= await call(self._client, tool, arguments)
        return answer

    async def _finish(self, run: dict[str, Any]) -> dict[str, Any]:
        def show(now: dict[str, Any]) -> None:
            fraction = now["progress"]["fraction"]
            total = None if fraction is None else 1.0
            self._display.update(self._bar, total=total, completed=fraction or 0, note=_note(now))

        return await finish(self._client, run, show)


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One tool call; its structured result.

    Raises:
        StageFailed: the tool answered with an error, or the connection broke.
    """
    from mcp import MCPError

    try:
        answer = await client.call_tool(tool, arguments, read_timeout_seconds=CALL_TIMEOUT_S)
    except MCPError as error:
        raise StageFailed(f"{tool}: {error}") from error
    if answer.is_error or not isinstance(answer.structured_content, dict):
        texts = [text for block in answer.content if isinstance(text := getattr(block, "text", None), str)]
        raise StageFailed(f"{tool}: {' '.join(texts) or 'no structured result.'}")
    return answer.structured_content


async def finish(
    client: Client, run: dict[str, Any], show: Callable[[dict[str, Any]], None] | None = None, *, wait_s: int = 2
) -> dict[str, Any]:
    """Wait until the run has ended, however it ended; give its last record. Whatever ends the wait early cancels it.

    Args:
        client: connected to the server that has the run.
        run: its record, as a tool gave it.
        show: called with every record on the way.
        wait_s: seconds that one call waits for news.

    Raises:
        StageFailed: as `call`.
    """
    try:
        while run["state"] in RUNNING:
            run = await call(client, "get_run", {"run_id": run["run_id"], "wait_s": wait_s})
            if show:
                show(run)
    except BaseException:
        # Interrupted, or no terminal to show it on: the run has a process of its own that would go on without us.
        with anyio.move_on_after(CANCEL_TIMEOUT_S, shield=True), suppress(StageFailed):
            await call(client, "cancel_run", {"run_id": run["run_id"]})
        raise
    return run


def _result(run: dict[str, Any]) -> dict[str, Any]:
    """The result of a run that succeeded."""
    if run["state"] == "succeeded" and run["result"] is not None:
        return run["result"]
    error = run["error"]
    if error:
        raise StageFailed(f"{run['kind']}: [{error['code']}] {error['message']} Next: {error['next']}")
    log = " | ".join(run["log_tail"][-3:])
    raise StageFailed(f"{run['kind']}: {run['run_id']} ended as {run['state']}. {log}")


def _note(run: dict[str, Any]) -> str:
    """Step, loss and time to go, as far as they are known."""
    progress, parts = run["progress"], []
    if progress["step"] is not None and progress["total_steps"]:
        parts.append(f"{progress['step']}/{progress['total_steps']}")
    losses = [point["loss"] for point in run.get("metrics") or [] if point.get("loss") is not None]
    if losses:
        parts.append(f"loss {losses[-1]:.3f}")
    if progress["eta_s"] is not None:
        parts.append(f"{progress['eta_s']:.0f} s to go")
    if progress["message"]:
        parts.append(progress["message"])
    return _plain(" · ".join(parts))


def _plain(text: object) -> str:
    """Text from elsewhere, that rich must not read as markup."""
    from rich.markup import escape

    return escape(str(text))


def examples_folder() -> Path:
    """The notes and questions that come with tunesmith: in the wheel, or at the root of a checkout.

    Raises:
        NotFound: neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / "notes").is_dir() and (folder / "questions.json").is_file():
            return folder
    raise NotFound(f"The demo's notes are not in {package / 'examples'}.", next="Reinstall tunesmith.")


def read_questions(path: Path) -> list[dict[str, str]]:
    """The questions the models are asked: a JSON list of `{question, reference}`."""
    try:
        questions = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as questions: {error}.", next="Reinstall tunesmith.") from error
    return questions


@asynccontextmanager
async def connected(workspace: Path, notes: Path) -> AsyncIterator[Client]:
    """A client of a tunesmith server of its own, whose log goes to `server.log` in the workspace."""
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    arguments = ["-P", "-m", "tunesmith", "serve", "--workspace", str(workspace), "--allow-root", str(notes)]
    # By default a client hands down almost no variables; OLLAMA_HOST, LLAMA_CPP_DIR and the like must arrive.
    server = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
    with (workspace / "server.log").open("a", encoding="utf-8") as log:
        async with Client(stdio_client(server, errlog=log)) as client:
            yield client


@contextmanager
def stopping_on_signals(scope: anyio.CancelScope) -> Iterator[list[signal.Signals]]:
    """Inside, the stop signals cancel `scope`; those that came are in the list.

    Ctrl-C is one of them: what asyncio does with it by itself would not stop at a shielded scope.
    """
    loop, came = asyncio.get_running_loop(), []
    # Asked now: a terminal that was closed says that it is none.
    shown_on = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def stop(number: signal.Signals) -> None:
        came.append(number)
        if number not in (signal.SIGINT, signal.SIGTERM):
            _leave_terminal(shown_on)
        scope.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        yield came
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


def _leave_terminal(descriptors: list[int]) -> None:
    """Let what is still written to the closed terminal go nowhere: an error from it would hide the ending."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


async def _run(workspace: Path, examples: Path, display: Progress, out: Console) -> Outcome | signal.Signals:
    """What came of it, or the signal that ended it."""
    notes, questions = examples / "notes", read_questions(examples / "questions.json")
    outcome = None
    async with connected(workspace, notes) as client:
        with anyio.CancelScope() as scope, stopping_on_signals(scope) as came:
            outcome = await Demo(client, notes, questions, display=display, out=out).run()
    return outcome or came[0]


def run_demo(workspace: Path | None = None) -> int:
    """Run the demo in `workspace` (default: `.demo` in the current folder).

    Returns:
        The exit status: 0 everything worked, 1 a stage failed, 128 and its number where a signal ended it.

    Raises:
        UserError: it cannot be started at all.
    """
    from mcp import MCPError

    folder = (workspace or Path(".demo")).expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be used: {error.strerror}.", next="Choose another --workspace.") from error
    shown = Console(stderr=True)
    shown.print(f"Everything this makes lies in {_plain(folder)}", soft_wrap=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
    )
    try:
        with Progress(*columns, TimeElapsedColumn(), console=shown, transient=True) as display:
            outcome = anyio.run(_run, folder, examples_folder(), display, Console())
    except (MCPError, OSError) as error:
        log = folder / "server.log"
        raise ServiceFailed(f"The server cannot be talked to: {error}.", next=f"Read {log}.") from error
    if isinstance(outcome, signal.Signals):
        shown.print(f"Stopped by {outcome.name}; a run it was waiting for was cancelled.")
        return 128 + outcome
    print(outcome.as_line(), flush=True)
    return 0 if outcome.ok else 1
