"""What fifty clients that follow one run cost the server. Prints JSON lines, the last ones the figures.

    python benchmarks/followers.py [--clients 50] [--seconds 30] [--era auto|legacy]

A server process serves HTTP; a run in processes of its own writes a log line, a
metric and its progress every second; the clients live in a third process. Two ways:
`waiting` calls get_run(wait_s=20) over and over; `listening` is told when the log
has grown and reads it from where it had read to. The first seconds, in which the
clients connect, are not counted.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp import Client
from mcp.shared.exceptions import MCPDeprecationWarning

from tunesmith.runs.supervisor import Supervisor
from tunesmith.work import Work, run_worker
from tunesmith.workspace import Workspace

LONG_S = 600


@dataclass(frozen=True)
class Way:
    """How the run is followed."""

    name: str
    era: str
    clients: int
    seconds: float


GO_ON = re.compile(r"go on: \S+\?offset=(\d+)")


def work(work: Work) -> dict[str, int]:
    """A run that writes a line, a metric and its progress every second until it is asked to stop."""
    for step in range(1, LONG_S):
        print(f"step {step}: the loss is {1 / step:.4f}, the wren sings", flush=True)
        work.metric({"step": step, "loss": 1 / step})
        work.progress("training", step=step, total_steps=LONG_S)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            work.check_cancelled()
            time.sleep(0.05)
    return {"steps": LONG_S}


async def follow(way: Way, url: str, run_id: str) -> None:
    """The clients' process: says `ready`, follows, prints what it heard."""
    calls = notices = ready = 0
    uri = f"runs://{run_id}/log"

    async def wait(client: Client) -> None:
        nonlocal calls
        while True:
            await client.call_tool("get_run", {"run_id": run_id, "wait_s": 20})
            calls += 1

    async def read(client: Client, cursor: int) -> int:
        nonlocal calls
        calls += 1
        text = (await client.read_resource(f"{uri}?offset={cursor}")).contents[0].text
        place = GO_ON.search(text)
        assert place is not None, text
        return int(place.group(1))

    async def one() -> None:
        nonlocal notices, ready
        told = anyio.Event()

        async def on_message(_message: Any) -> None:
            told.set()

        async with Client(url, mode=way.era, message_handler=on_message if way.era == "legacy" else None) as client:
            ready += 1
            if way.name == "waiting":
                await wait(client)
            cursor = await read(client, 0)
            if way.era == "legacy":
                await client.subscribe_resource(uri)
                while True:
                    await told.wait()
                    told = anyio.Event()
                    notices += 1
                    cursor = await read(client, cursor)
            async with client.listen(resource_subscriptions=[uri]) as stream:
                async for _ in stream:
                    notices += 1
                    cursor = await read(client, cursor)

    async with anyio.create_task_group() as tasks:
        for _ in range(way.clients):
            tasks.start_soon(one)
        while ready < way.clients:
            await anyio.sleep(0.05)
        await anyio.sleep(3)
        print("ready", flush=True)
        calls = notices = 0
        await anyio.sleep(way.seconds)
        print(json.dumps({"calls": calls, "notices": notices}), flush=True)
        tasks.cancel_scope.cancel()


def measure(way: Way, workspace: Workspace, run_id: str) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tunesmith", "serve", "--http", "--port", str(port)]
    server = subprocess.Popen([*command, "--workspace", str(workspace.root)])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        arguments = [*map(str, astuple(way)), f"http://127.0.0.1:{port}/mcp", run_id]
        process = psutil.Process(server.pid)
        with subprocess.Popen(
            [sys.executable, __file__, "follow", *arguments], stdout=subprocess.PIPE, text=True
        ) as followers:
            assert followers.stdout is not None
            assert followers.stdout.readline() == "ready\n"
            before, began = process.cpu_times(), time.monotonic()
            heard = json.loads(followers.stdout.readline())
            after, took = process.cpu_times(), time.monotonic() - began
        cpu = after.user + after.system - before.user - before.system
        return {
            "way": way.name,
            "era": way.era,
            "clients": way.clients,
            "seconds": round(took, 1),
            "server_cpu_s": round(cpu, 2),
            "server_percent_of_a_core": round(100 * cpu / took, 2),
            "calls_per_s": round(heard["calls"] / took, 1),
            "notices_per_s": round(heard["notices"] / took, 1),
        }
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--era", choices=["auto", "legacy"], action="append")
    parser.add_argument("--way", choices=["waiting", "listening"], action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "ws")
        runs = Supervisor(workspace)
        run_id = runs.submit("train", [sys.executable, __file__, "work"], {})
        try:
            figures = [
                measure(Way(way, era, options.clients, options.seconds), workspace, run_id)
                for era in options.era or ["auto", "legacy"]
                for way in options.way or ["waiting", "listening"]
            ]
        finally:
            runs.cancel(run_id)
            while runs.row(run_id).state != "cancelled":
                time.sleep(0.1)
    for figure in figures:
        print(json.dumps(figure))


if sys.argv[1:2] == ["work"]:
    sys.argv = sys.argv[1:]
    run_worker({"train": work})
elif sys.argv[1:2] == ["follow"]:
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    name, era, clients, seconds, url, run = sys.argv[2:]
    anyio.run(follow, Way(name, era, int(clients), float(seconds)), url, run)
else:
    main()
