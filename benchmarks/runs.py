"""Reading runs: get_run and list_runs in a store of 10,000, the end of a log of 1 GiB. A table, then JSON lines.

    python benchmarks/runs.py [--runs 10000] [--log-gib 1]

The store is filled through `RunStore` by legal steps; the newest 300 runs have a folder as real ones have (a log of
200 KB, 2,000 steps of measurements, progress, a result), one of them a giant log and a million steps. Two runs seem
to be running (this process holds their locks) and a hundred wait for them. Calls go through a client of the server in
this process. Times are of the whole call, client and server: wall time, and processor time, which the load of other
programs changes less.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from mcp import Client

from tunesmith.runs import log, process
from tunesmith.runs.records import Kind, State
from tunesmith.runs.states import CANCELLED, FAILED, LOST, RUNNING, SUCCEEDED
from tunesmith.runs.store import CPU_SLOTS, RunStore
from tunesmith.server.app import build_server
from tunesmith.server.settings import Settings
from tunesmith.workspace import Workspace, new_id

WITH_FOLDER, WAITING = 300, 100
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
STATES: tuple[State, ...] = State.__args__  # type: ignore[attr-defined]
STEP_LINE = "step {0}/2000  loss 1.2345  lr 1.80e-04  347 tokens/s  eta {0} s\n"
POINT = {"epoch": 0.1234, "loss": 1.2345678, "eval_loss": None, "learning_rate": 0.00018, "grad_norm": 0.123456789}


def fill(workspace: Workspace, count: int) -> list[str]:
    """Runs that have ended, then some that run and some that wait. Returns their ids, oldest first."""
    store, chance = RunStore(workspace.database), random.Random(1)
    workspace.database.read("PRAGMA synchronous=OFF")  # this thread's connection only: filling is not what is measured
    ids = []
    for number in range(count):
        run_id, kind = new_id("run"), chance.choice(KINDS)
        last = number >= count - WAITING - len(CPU_SLOTS)
        store.insert(run_id, kind, ("device0",) if kind == "train" and not last else CPU_SLOTS)
        ids.append(run_id)
        if number >= count - WAITING:
            continue
        (workspace.runs / run_id).mkdir()
        claimed = store.claim_next()
        assert claimed is not None
        assert claimed.run_id == run_id
        if last:
            for name in (process.ALIVE, process.SHIM):
                process.take_lock(workspace.runs / run_id, name)
        store.transition(run_id, RUNNING, boot_id=process.boot_id())
        if not last:
            state = chance.choices((SUCCEEDED, FAILED, CANCELLED, LOST), (80, 10, 5, 5))[0]
            if state == CANCELLED:
                store.request_cancel(run_id)
            error = {"code": "bad_input", "message": "Something was wrong.", "next": "Do something else."}
            store.transition(run_id, state, error=error if state in (FAILED, LOST) else None)
        if number >= count - WITH_FOLDER:
            write_folder(workspace.runs / run_id)
    return ids


def write_folder(folder: Path) -> None:
    (folder / "log.txt").write_text("".join(STEP_LINE.format(step) for step in range(2000)) * 2)
    points = [{"step": step, **POINT} for step in range(2000)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    event = {"at": 0.0, "message": "Step 2000 of 2000", "step": 2000, "total_steps": 2000, "fraction": 1, "eta_s": 0}
    (folder / "events.jsonl").write_text((json.dumps(event) + "\n") * 2000)
    (folder / "result.json").write_text(json.dumps({"result": {"model_id": "mdl_abcdefghijkl", "note": "x" * 2000}}))


def write_giants(folder: Path, gib: float) -> None:
    """A real log of `gib` GiB and 200 MB of measurements (a million steps)."""
    block = "".join(STEP_LINE.format(step) for step in range(16_000)).encode()
    with (folder / "log.txt").open("wb") as file:
        for _ in range(round(gib * 2**30 / len(block)) + 1):
            file.write(block)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1_000_000):
            file.write(json.dumps({"step": step, **POINT, "note": "x" * 50}) + "\n")


async def timed(call: Callable[[], Awaitable[Any]], repeats: int) -> list[tuple[float, float]]:
    """Wall time and processor time of each call."""
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        await call()
        times.append(((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000))
    return times


async def measure_calls(workspace: Workspace, ids: list[str], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds of each kind of call."""
    server = build_server(Settings(workspace=workspace.root, allow_roots=[workspace.root]))
    chance = random.Random(2)
    rows = {run_id: server.services.runs.store.get(run_id) for run_id in ids}
    recent = ids[-WITH_FOLDER:-WAITING]
    trained = [run_id for run_id in recent if rows[run_id].kind == "train"]
    total = len(ids)
    found: dict[str, list[tuple[float, float]]] = {}
    async with Client(server) as client:

        async def measure(name: str, tool: str, arguments: Callable[[], dict[str, Any]], times: int = repeats) -> None:
            async def call() -> None:
                answer = await client.call_tool(tool, arguments())
                assert not answer.is_error, answer.content

            await timed(call, 3)
            found[name] = await timed(call, times)

        def run_of(some: list[str], **more: Any) -> Callable[[], dict[str, Any]]:
            return lambda: {"run_id": chance.choice(some), **more}

        await measure("get_run, any", "get_run", run_of(ids))
        await measure("get_run, recent training", "get_run", run_of(trained))
        await measure("get_run, 200 lines", "get_run", run_of(recent, log_lines=200))
        await measure("get_run, waiting", "get_run", run_of(ids[-WAITING:]))
        await measure("get_run, giant files", "get_run", run_of([giant_of(ids, rows)]))
        await measure("list_runs, 20", "list_runs", lambda: {"limit": 20})
        await measure("list_runs, 100", "list_runs", lambda: {"limit": 100})
        for depth in (total // 2, 101):
            await measure(
                f"list_runs, 100 before {depth}", "list_runs", lambda d=depth: {"limit": 100, "cursor": str(d)}
            )
        for kind in KINDS:
            await measure(
                f"list_runs, 100 kind={kind}", "list_runs", lambda k=kind: {"limit": 100, "kind": k}, repeats // 4
            )
        for state in STATES:
            await measure(
                f"list_runs, 100 state={state}", "list_runs", lambda s=state: {"limit": 100, "state": s}, repeats // 4
            )
        await measure(
            "list_runs, 100 kind and state, deep",
            "list_runs",
            lambda: {"limit": 100, "kind": "train", "state": SUCCEEDED, "cursor": str(total // 3)},
        )
        for name in ("log", "metrics", "loss.svg"):
            uri = f"runs://{giant_of(ids, rows)}/{name}"
            found[f"resource {name}, giant"] = await timed(lambda u=uri: client.read_resource(u), repeats // 4)
    return found


def giant_of(ids: list[str], rows: dict[str, Any]) -> str:
    return next(run_id for run_id in ids[-WITH_FOLDER:] if rows[run_id].kind == "train" and rows[run_id].finished_at)


def measure_tail(path: Path) -> tuple[list[tuple[float, float]], float]:
    """Times of the end of a giant log, and the peak of memory of one read, MiB."""
    times = []
    for _ in range(200):
        wall, cpu = time.perf_counter(), time.process_time()
        log.tail(path, 20)
        times.append(((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000))
    tracemalloc.start()
    log.tail(path, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return times, peak / 2**20


def summary(what: str, times: list[tuple[float, float]]) -> dict[str, Any]:
    wall, cpu = sorted(wall for wall, _ in times), sorted(cpu for _, cpu in times)
    last = min(len(times) - 1, round(0.99 * len(times)))
    return {
        "what": what,
        "calls": len(times),
        "p50_ms": round(statistics.median(wall), 2),
        "p99_ms": round(wall[last], 2),
        "cpu_p50_ms": round(statistics.median(cpu), 2),
        "cpu_p99_ms": round(cpu[last], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--log-gib", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "ws")
        began = time.perf_counter()
        ids = fill(workspace, options.runs)
        rows = {run_id: RunStore(workspace.database).get(run_id) for run_id in ids[-WITH_FOLDER:]}
        giant = workspace.runs / giant_of(ids, rows)
        write_giants(giant, options.log_gib)
        print(f"{len(ids)} runs and their files written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        found = anyio.run(measure_calls, workspace, ids, options.repeats)
        tail, peak = measure_tail(giant / "log.txt")
        size = (giant / "log.txt").stat().st_size
    lines = [summary(name, times) for name, times in found.items()]
    lines.append(summary(f"tail of a log of {size / 2**30:.2f} GiB", tail) | {"peak_mib": round(peak, 2)})
    columns = ("p50_ms", "p99_ms", "cpu_p50_ms", "cpu_p99_ms")
    print(f"{'':44}" + "".join(f"{name:>12}" for name in columns))
    for line in lines:
        print(f"{line['what']:44}" + "".join(f"{line[name]:12.2f}" for name in columns))
    for line in lines:
        print(json.dumps(line))


main()
