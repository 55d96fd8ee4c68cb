"""Start-up, memory and latency of the server, side by side with a bare one. Prints one JSON line.

    python benchmarks/server.py

Each server is started as a process and driven over stdio: process start to answered
`tools/list` (median of 7, alternating), resident memory, and `get_run` round trips.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import anyio
import psutil
from mcp import Client
from mcp.client.stdio import StdioServerParameters

ROUNDS, CALLS = 7, 200
BARE = (
    "from mcp.server import MCPServer\n"
    "server = MCPServer('bare')\n"
    "@server.tool()\n"
    "def add(a: int, b: int) -> int:\n"
    "    return a + b\n"
    "server.run()\n"
)


async def start_up(command: StdioServerParameters) -> float:
    began = time.perf_counter()
    async with Client(command) as client:
        await client.list_tools()
        return time.perf_counter() - began


async def main() -> None:
    workspace = Path(tempfile.mkdtemp())
    notes = workspace / "notes.md"
    ours = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tunesmith", "serve", "--workspace", str(workspace / "ws"), "--allow-root", str(workspace)],
    )
    bare = StdioServerParameters(command=sys.executable, args=["-c", BARE])
    times: dict[str, list[float]] = {"tunesmith": [], "bare": []}
    for _ in range(ROUNDS):
        times["tunesmith"].append(await start_up(ours))
        times["bare"].append(await start_up(bare))
    notes.write_text("# Wren\n\nThe wren logger is woken with a magnet held on the mark for four seconds.\n")
    async with Client(ours) as client:
        run = (await client.call_tool("extract_qa", {"source": str(notes), "wait_s": 40})).structured_content
        latency = []
        for _ in range(CALLS):
            began = time.perf_counter()
            await client.call_tool("get_run", {"run_id": run["run_id"]})
            latency.append(time.perf_counter() - began)
        (server,) = [p for p in psutil.Process().children() if "serve" in p.cmdline()]
        resident = server.memory_info().rss / 2**20
        mapped = {Path(m.path).name for m in server.memory_maps()}
    ratio = statistics.median(times["tunesmith"]) / statistics.median(times["bare"])
    print(
        json.dumps(
            {
                "start_up_s": {name: round(statistics.median(found), 3) for name, found in times.items()},
                "start_up_ratio": round(ratio, 2),
                "resident_mib": round(resident),
                "libtorch_mapped": any("libtorch" in name for name in mapped),
                "get_run_p50_ms": round(statistics.median(latency) * 1000, 2),
                "get_run_p99_ms": round(sorted(latency)[int(CALLS * 0.99) - 1] * 1000, 2),
            }
        )
    )


anyio.run(main)
