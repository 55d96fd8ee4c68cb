"""Notices: clients of both protocol eras hear of changes that other processes make, and nobody looks for nobody."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.mcpserver import Context
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated, ToolsListChanged
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import ResourceListChangedNotification, ResourceUpdatedNotification

from tunesmith.errors import StoreBusy
from tunesmith.runs.supervisor import Supervisor
from tunesmith.runs.watching import MOST_NEWS, NEWS_S, Part
from tunesmith.server.app import TunesmithServer
from tunesmith.server.notices import Outbox
from tunesmith.workspace import Workspace

WORKER = [sys.executable, str(Path(__file__).parents[1] / "runs" / "fake_worker.py")]
IN_TIME_S = 30
LIST = "the list"
ERAS = ("auto", "legacy")


@dataclass
class Heard:
    """What a client was told, in that order."""

    notices: list[str] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)

    def add(self, notice: str) -> None:
        self.notices.append(notice)
        self.news.set()
        self.news = anyio.Event()

    async def until(self, *wanted: str) -> None:
        """Wait until each of these has been heard since the last call, then forget what was heard."""
        try:
            with anyio.fail_after(IN_TIME_S):
                while not set(wanted) <= set(self.notices):
                    await self.news.wait()
        except TimeoutError:
            pytest.fail(f"waited for {wanted}, heard {self.notices}")
        self.notices.clear()


@asynccontextmanager
async def following(
    target: Any, era: str, uris: Sequence[str] = (), *, lists: bool = False
) -> AsyncIterator[tuple[Client, Heard]]:
    """A client that follows these resources in the way of its era."""
    heard = Heard()

    async def on_message(message: Any) -> None:
        if era == "legacy" and isinstance(message, ResourceUpdatedNotification):
            heard.add(str(message.params.uri))
        if era == "legacy" and isinstance(message, ResourceListChangedNotification):
            heard.add(LIST)

    async with Client(target, mode=era, message_handler=on_message) as client:
        if era == "legacy":
            for uri in uris:
                await subscribe(client, uri)
            yield client, heard
            return
        async with client.listen(resource_subscriptions=uris, resources_list_changed=lists) as stream:

            async def listen() -> None:
                async for event in stream:
                    heard.add(event.uri if isinstance(event, ResourceUpdated) else LIST)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                yield client, heard
                tasks.cancel_scope.cancel()


async def subscribe(client: Client, uri: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await client.subscribe_resource(uri)


async def unsubscribe(client: Client, uri: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await client.unsubscribe_resource(uri)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(IN_TIME_S):
        while not condition():
            await anyio.sleep(0.02)


@pytest.fixture
def elsewhere(server: TunesmithServer) -> Iterator[Supervisor]:
    """Another server on the same workspace; what it started is cancelled in the end."""
    runs = Supervisor(Workspace(server.services.workspace.root))
    yield runs
    for row in runs.store.page(kind=None, state=None, limit=100, before=None)[0]:
        if row.state not in ("succeeded", "failed", "cancelled", "lost"):
            runs.cancel(row.run_id)
    deadline = time.monotonic() + IN_TIME_S
    while runs.store.active():
        assert time.monotonic() < deadline
        runs.reconcile_all()
        time.sleep(0.05)


@pytest.fixture
def http(server: TunesmithServer) -> Iterator[str]:
    """The server on a real socket, in a thread of this process so that its watcher can be seen."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = server.streamable_http_app()
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none")
    serving = uvicorn.Server(config)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + IN_TIME_S
    while not serving.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    serving.should_exit = True
    thread.join(IN_TIME_S)
    assert not thread.is_alive()
    listener.close()


@pytest.fixture(params=[f"{era}-{transport}" for era in ERAS for transport in ("memory", "http")])
def era_and_target(request: pytest.FixtureRequest, server: TunesmithServer) -> tuple[str, Any]:
    era, transport = request.param.split("-")
    return era, (request.getfixturevalue("http") if transport == "http" else server)


Began = Callable[..., str]


@pytest.fixture
def began(elsewhere: Supervisor, tmp_path: Path) -> Began:
    """Starts a run that goes on until the gate is there; its id, once its worker works."""

    def start(**options: Any) -> str:
        run_id = elsewhere.submit("train", WORKER, {"until": str(tmp_path / "gate")}, **options)
        deadline = time.monotonic() + IN_TIME_S
        measured = elsewhere.folder(run_id) / "metrics.jsonl"  # the last thing it does before it waits
        while not measured.exists() or not elsewhere.store.get(run_id).worker_pid:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return run_id

    return start


def append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def watching() -> bool:
    return any(thread.name == "tunesmith-watcher" for thread in threading.enumerate())


def go(main: Callable[[], Awaitable[Any]]) -> Any:
    return anyio.run(main)


def test_the_end_of_a_run_in_another_process_is_told_once_with_its_log_and_metrics(
    era_and_target: tuple[str, Any], began: Began, elsewhere: Supervisor, tmp_path: Path
) -> None:
    era, target = era_and_target
    run_id = began()
    uris = [f"runs://{run_id}{part}" for part in ("", "/log", "/metrics")]

    async def main() -> None:
        async with following(target, era, uris) as (client, heard):
            (tmp_path / "gate").touch()
            # This worker measures nothing more, so only the end tells of the metrics, after the run and its log.
            await heard.until(*uris)
            assert json.loads((await client.read_resource(uris[0])).contents[0].text)["state"] == "succeeded"
            # The run is over, so nobody needs to look any more (a client of the older era hears of new resources too).
            await until(lambda: not watching() or era == "legacy")
            assert uris[2] not in heard.notices

    go(main)


def test_growth_of_the_log_and_of_the_metrics_is_told_to_those_who_follow_them(
    era_and_target: tuple[str, Any], began: Began, elsewhere: Supervisor
) -> None:
    era, target = era_and_target
    run_id = began()
    log, metrics = elsewhere.folder(run_id) / "log.txt", elsewhere.folder(run_id) / "metrics.jsonl"
    uris = [f"runs://{run_id}/{part}" for part in ("log", "metrics", "loss.svg")]

    async def main() -> None:
        async with following(target, era, uris[:1]) as (client, heard):
            append(metrics, '{"step": 1, "loss": 2.0}')
            append(log, "the wren sings")
            await heard.until(uris[0])
            assert "the wren sings" in (await client.read_resource(uris[0])).contents[0].text
        async with following(target, era, uris) as (_, heard):
            append(metrics, '{"step": 2, "loss": 1.0}')
            await heard.until(*uris[1:])

    go(main)


def test_a_log_that_grows_all_the_time_is_told_about_once_a_second_and_its_last_line_is_not_missed(
    server: TunesmithServer, began: Began, elsewhere: Supervisor, tmp_path: Path
) -> None:
    run_id = began()
    log, uri = elsewhere.folder(run_id) / "log.txt", f"runs://{run_id}/log"

    async def main() -> None:
        async with following(server, "auto", [uri]) as (client, heard):
            began_at = time.monotonic()
            heard_of = 0
            while (seconds := time.monotonic() - began_at) < 3 * NEWS_S:
                append(log, f"line {seconds}")
                await anyio.sleep(0.02)
            heard_of = len(heard.notices)
            append(log, "the last line")
            (tmp_path / "gate").touch()
            while "the last line" not in (await client.read_resource(uri)).contents[0].text:
                await heard.until(uri)
            assert 2 <= heard_of <= 5

    go(main)


def test_where_many_follow_a_run_each_is_told_less_often(
    server: TunesmithServer, began: Began, elsewhere: Supervisor
) -> None:
    run_id = began()
    many = 2 * MOST_NEWS  # so every two seconds
    told: list[float] = []
    last = threading.Event()
    watcher, row = server.services.watcher, elsewhere.store.get(run_id)

    def tell(_over: bool) -> None:
        told.append(time.monotonic())
        if len(told) > many:
            last.set()

    stops = [watcher.follow(row, frozenset({Part.LOG}), tell) for _ in range(many)]
    append(elsewhere.folder(run_id) / "log.txt", "one")
    deadline = time.monotonic() + IN_TIME_S
    while len(told) < many:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    append(elsewhere.folder(run_id) / "log.txt", "two")
    assert last.wait(IN_TIME_S)
    assert 1.5 <= told[many] - told[0] <= 10
    for stop in stops:
        stop()
    go(lambda: until(lambda: not watching()))


def test_what_a_tool_of_the_server_publishes_reaches_those_who_listen(server: TunesmithServer) -> None:
    async def change(ctx: Context[Any, Any]) -> str:
        await ctx.notify_tools_changed()
        await ctx.notify_resource_updated("machine://gpu")
        return "changed"

    server.add_tool(change)

    async def main() -> None:
        async with (
            Client(server) as client,
            client.listen(tools_list_changed=True, resource_subscriptions=["machine://gpu"]) as stream,
        ):
            await client.call_tool("change", {})
            with anyio.fail_after(IN_TIME_S):
                assert await anext(stream) == ToolsListChanged()
                assert await anext(stream) == ResourceUpdated("machine://gpu")

    go(main)


def test_new_resources_made_by_other_processes_change_the_list(
    era_and_target: tuple[str, Any], server: TunesmithServer, elsewhere: Supervisor
) -> None:
    era, target = era_and_target
    make = (
        "import sys; from pathlib import Path; from tunesmith.workspace import Workspace;"
        "from tunesmith.data.records import Message, Row; from tunesmith.data.store import DatasetStore;"
        "messages = [Message(role='user', content='q'), Message(role='assistant', content='a')];"
        "row = Row(row_id='', messages=messages);"
        "made = DatasetStore(Workspace(Path(sys.argv[1]))).create([row], name='notes', created_by='import_dataset');"
        "print(made.dataset_id)"
    )
    command = [sys.executable, "-c", make, str(server.services.workspace.root)]

    async def main() -> None:
        async with following(target, era, lists=True) as (client, heard):
            if era == "legacy" and isinstance(target, str):
                await until(lambda: standing_streams(server))
            done = await anyio.run_process(command)
            await heard.until(LIST)
            uris = [str(resource.uri) for resource in (await client.list_resources()).resources]
            assert f"datasets://{done.stdout.decode().strip()}" in uris
            run_id = await anyio.to_thread.run_sync(lambda: elsewhere.submit("score", WORKER, {}))
            await heard.until(LIST)
            assert f"runs://{run_id}" in [str(resource.uri) for resource in (await client.list_resources()).resources]

    go(main)


def standing_streams(server: TunesmithServer) -> bool:
    """Whether the one older client has opened the stream on which a server speaks unasked."""
    (transport,) = server.session_manager._server_instances.values()
    return "_GET_stream" in transport._request_streams


def test_a_score_and_an_export_are_told_to_those_who_follow_the_dataset_and_the_model(
    server: TunesmithServer, era: str
) -> None:
    from tunesmith.data.records import Message, Row
    from tunesmith.data.store import DatasetStore
    from tunesmith.models.store import ModelStore

    workspace = Workspace(server.services.workspace.root)
    messages = [Message(role="user", content="q"), Message(role="assistant", content="a")]
    dataset = DatasetStore(workspace).create([Row(row_id="", messages=messages)], name="n", created_by="extract_qa")
    model = ModelStore(workspace).new(
        name="n", base_model="embedded", method="lora", prompt_format={}, recipe={}, run_id=None
    )
    report, modelfile = f"datasets://{dataset.dataset_id}/report", f"models://{model.model_id}/modelfile"

    async def main() -> None:
        async with following(server, era, [report, modelfile]) as (_, heard):
            (workspace.datasets / dataset.dataset_id / "report.json").write_text("{}")
            await heard.until(report)
            (workspace.models / model.model_id / "Modelfile").write_text("FROM x")
            await heard.until(modelfile)

    go(main)


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    return request.param


def test_both_eras_declare_what_they_serve(server: TunesmithServer, http: str, era: str) -> None:
    async def main() -> None:
        for target in (server, http):
            async with Client(target, mode=era) as client:
                resources = client.server_capabilities.resources
                assert resources is not None
                assert resources.subscribe
                assert resources.list_changed

    go(main)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("runs://run_abcdefghijkl", "[not_found]"),
        ("runs://run_abcdefghijkl/log", "[not_found]"),
        ("runs://../../etc/passwd", "There is no resource"),
        ("runs://run_x", "is not an id"),
        ("runs://ds_abcdefghijkl", "is a dataset id"),
        ("runs://run_abcdefghijkl/nothing", "There is no resource"),
        ("datasets://ds_abcdefghijkl/report", "[not_found]"),
        ("models://mdl_abcdefghijkl", "[not_found]"),
        ("comparisons://cmp_abcdefghijkl/report", "[not_found]"),
        ("nowhere", "There is no resource"),
    ],
)
def test_a_uri_that_names_nothing_is_an_error_that_says_what_to_do(
    server: TunesmithServer, era: str, uri: str, message: str
) -> None:
    async def main() -> None:
        async with Client(server, mode=era) as client:
            with pytest.raises(MCPError) as caught:
                if era == "legacy":
                    await subscribe(client, uri)
                else:
                    async with client.listen(resource_subscriptions=[uri]):
                        pass
            assert message in caught.value.message
            assert "Next: " in caught.value.message
            assert caught.value.code == -32602

    go(main)
    go(lambda: until(lambda: not watching()))


def test_after_unsubscribing_a_client_hears_no_more_of_it(
    server: TunesmithServer, began: Began, elsewhere: Supervisor
) -> None:
    run_id = began()
    log, metrics = f"runs://{run_id}/log", f"runs://{run_id}/metrics"

    async def main() -> None:
        async with following(server, "legacy", [log, metrics]) as (client, heard):
            append(elsewhere.folder(run_id) / "log.txt", "one")
            await heard.until(log)
            await unsubscribe(client, log)
            await unsubscribe(client, log)
            append(elsewhere.folder(run_id) / "log.txt", "two")
            append(elsewhere.folder(run_id) / "metrics.jsonl", "{}")
            # Both would be told by the same look.
            while metrics not in heard.notices:
                await heard.news.wait()
            assert log not in heard.notices

    go(main)


def test_nobody_looks_while_nobody_listens_or_waits(
    server: TunesmithServer, began: Began, elsewhere: Supervisor
) -> None:
    run_id = began()

    async def main() -> None:
        watcher = server.services.watcher
        async with Client(server) as client:
            await client.call_tool("get_run", {"run_id": run_id})
            await client.list_resources()
            assert watcher.looks == 0
            assert not watching()
            async with client.listen(resource_subscriptions=[f"runs://{run_id}"], resources_list_changed=True):
                await until(lambda: watcher.looks > 3)
            await until(lambda: not watching())

    go(main)
    assert not watching()


def test_a_client_that_disconnects_is_forgotten(era_and_target: tuple[str, Any], began: Began) -> None:
    era, target = era_and_target
    run_id = began()

    async def main() -> None:
        async with following(target, era, [f"runs://{run_id}", f"runs://{run_id}/log"], lists=True):
            await until(watching)
        await until(lambda: not watching())

    go(main)


def test_a_client_that_is_killed_is_forgotten(http: str, began: Began) -> None:
    run_id = began()
    script = (
        "import anyio, sys; from mcp import Client\n"
        "async def main():\n"
        "    async with Client(sys.argv[1]) as client, client.listen(resource_subscriptions=[sys.argv[2]]):\n"
        "        print('listening', flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)"
    )
    with subprocess.Popen([sys.executable, "-c", script, http, f"runs://{run_id}"], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"listening\n"
        assert watching()
        client.kill()
    go(lambda: until(lambda: not watching()))


def test_twenty_clients_that_wait_share_one_look_and_all_hear_of_the_end(
    http: str, server: TunesmithServer, began: Began, tmp_path: Path
) -> None:
    run_id = began()
    states: list[str] = []

    async def wait() -> None:
        async with Client(http) as client:
            result = await client.call_tool("get_run", {"run_id": run_id, "wait_s": 50})
            states.append(result.structured_content["state"])

    async def main() -> None:
        watcher = server.services.watcher
        began_at = time.monotonic()
        with anyio.fail_after(IN_TIME_S):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(wait)
                await until(lambda: sum(map(len, followers(watcher))) == 20)
                (tmp_path / "gate").touch()
        assert states == ["succeeded"] * 20
        assert watcher.looks <= (time.monotonic() - began_at) / 0.2 + 2
        await until(lambda: not watching())

    go(main)


def followers(watcher: Any) -> list[list[Any]]:
    return [entry.followers for entry in list(watcher._runs.values())]


def test_a_client_that_gives_up_waiting_is_forgotten(server: TunesmithServer, began: Began) -> None:
    run_id = began()

    async def main() -> None:
        async with Client(server) as client:
            result = await client.call_tool("get_run", {"run_id": run_id, "wait_s": 1})
            assert result.structured_content["state"] == "running"
            with anyio.move_on_after(1):
                await client.call_tool("get_run", {"run_id": run_id, "wait_s": 50})
            await until(lambda: not watching())

    go(main)


def test_a_run_whose_processes_are_killed_is_told_as_lost_though_nobody_writes_it_down(
    server: TunesmithServer, era: str, began: Began, elsewhere: Supervisor
) -> None:
    run_id = began()
    row = elsewhere.store.get(run_id)

    async def main() -> None:
        async with following(server, era, [f"runs://{run_id}"]) as (client, heard):
            os.kill(row.shim_pid or 0, signal.SIGKILL)
            os.kill(row.worker_pid or 0, signal.SIGKILL)
            result = await client.call_tool("get_run", {"run_id": run_id, "wait_s": 30})
            assert result.structured_content["state"] in ("lost", "failed")
            await heard.until(f"runs://{run_id}")

    go(main)


def test_a_fault_of_the_store_reaches_who_waits_and_listeners_go_on(
    server: TunesmithServer, era: str, began: Began, elsewhere: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = began()
    log = f"runs://{run_id}/log"
    store = server.services.runs.store
    works = store.newest_change

    def fails() -> int:
        raise StoreBusy("Another process has held it.", next="Make the same call again.")

    async def main() -> None:
        async with following(server, era, [log]) as (client, heard):
            async with anyio.create_task_group() as tasks:
                results: list[Any] = []

                async def wait() -> None:
                    results.append(await client.call_tool("get_run", {"run_id": run_id, "wait_s": 50}))

                tasks.start_soon(wait)
                await until(lambda: sum(map(len, followers(server.services.watcher))) == 2)
                monkeypatch.setattr(store, "newest_change", fails)
                await until(lambda: results)
            assert results[0].is_error
            assert results[0].content[0].text.startswith("[store_busy]")
            monkeypatch.setattr(store, "newest_change", works)
            append(elsewhere.folder(run_id) / "log.txt", "still here")
            await heard.until(log)

    go(main)


def test_a_slow_client_gets_fewer_notices_and_none_is_lost_at_the_end() -> None:
    async def main() -> None:
        sent: list[Any] = []
        free = anyio.Event()
        one, other = ResourceUpdated("runs://a"), ResourcesListChanged()

        async def send(event: Any) -> None:
            sent.append(event)
            await free.wait()

        outbox = Outbox(send)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outbox.deliver)
            outbox.put(one)
            await until(lambda: sent)
            for _ in range(100):
                outbox.put(one)
                outbox.put(other)
            assert sent == [one]
            free.set()
            await until(lambda: len(sent) == 3)
            outbox.close()
        assert sent == [one, one, other]

    go(main)


def test_one_server_serves_one_event_loop_after_another(server: TunesmithServer, era: str, began: Began) -> None:
    run_id = began()
    log = server.services.workspace.runs / run_id / "log.txt"

    async def main() -> None:
        async with following(server, era, [f"runs://{run_id}/log"]) as (_, heard):
            append(log, "again")
            await heard.until(f"runs://{run_id}/log")

    for _ in range(3):
        go(main)


def test_a_server_on_standard_input_and_output_tells_too(
    server: TunesmithServer, era: str, began: Began, elsewhere: Supervisor
) -> None:
    run_id = began()
    root = str(server.services.workspace.root)
    command = StdioServerParameters(command=sys.executable, args=["-m", "tunesmith", "serve", "--workspace", root])

    async def main() -> None:
        async with following(command, era, [f"runs://{run_id}/log"], lists=True) as (_, heard):
            append(elsewhere.folder(run_id) / "log.txt", "one more")
            await heard.until(f"runs://{run_id}/log")
            await anyio.to_thread.run_sync(lambda: elsewhere.submit("score", WORKER, {}))
            await heard.until(LIST)

    go(main)
