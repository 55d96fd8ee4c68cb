"""Runs on a disk that fills up: python disk_full.py WORKSPACE WHAT. Started on a small file system of its own.

Prints one JSON object: the run, the errors met, what an integrity check of the database says.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import anyio
from mcp import Client

from tests.runs.conftest import WORKER, ended
from tunesmith.errors import UserError
from tunesmith.server.app import build_server
from tunesmith.server.settings import Settings

workspace, what = Path(sys.argv[1]), sys.argv[2]
server = build_server(Settings(workspace=workspace, allow_roots=[workspace]))
runs = server.services.runs
errors = []
if what == "before":
    filler = (workspace / "filler").open("ab", buffering=0)
    try:
        while True:
            filler.write(b"x" * 4096)
    except OSError:
        filler.close()
    try:
        runs.submit("score", WORKER, {})
    except UserError as error:
        errors.append(error.error_code)
    (workspace / "filler").unlink()
    run = ended(runs, runs.submit("score", WORKER, {}))
else:
    run = ended(runs, runs.submit("score", WORKER, {"fill": what}))


async def still_answers() -> bool:
    async with Client(server) as client:
        return not (await client.call_tool("list_runs", {})).is_error


print(
    json.dumps(
        {
            "run": run.model_dump(),
            "errors": errors,
            "folders": len(list(runs.workspace.runs.iterdir())),
            "integrity": sqlite3.connect(workspace / "tunesmith.db").execute("PRAGMA integrity_check").fetchone()[0],
            "answers": anyio.run(still_answers),
        }
    )
)
