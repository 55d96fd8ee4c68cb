"""A server in a process of its own: python fake_server.py WORKSPACE JOBS SETTINGS. Prints the ids of what it queued."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.runs.conftest import WORKER
from tunesmith.runs import store, supervisor
from tunesmith.server.app import build_server
from tunesmith.server.settings import Settings

workspace, jobs, settings = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
store.SPAWN_DEADLINE_S = settings.get("spawn_deadline_s", store.SPAWN_DEADLINE_S)
supervisor.GRACE_S = settings.get("grace_s", supervisor.GRACE_S)
runs = build_server(Settings(workspace=workspace, allow_roots=[workspace.parent])).services.runs
if settings.get("dies_before_spawn"):
    row = runs.store.insert("run_" + "a" * 12, "score", ("cpu0",))
    claimed = runs.store.claim_next()
    assert claimed is not None
    ids = [claimed.run_id]
else:
    ids = [runs.submit(job.pop("kind", "score"), WORKER, job.pop("args", {}), **job) for job in jobs]
print(json.dumps(ids), flush=True)
time.sleep(600)
