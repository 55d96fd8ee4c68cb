"""How long an export takes: merge, f16, three quantisations, every check, as a user's run does it.

    python benchmarks/export/speed.py WORKSPACE MODEL [--quantizations q8_0,q5_k_m,q4_k_m]

MODEL is one that trained.py made. It is copied without what was exported before, so that everything is done. The last
line is JSON: seconds in all and of each step, the share of the cores' time that was used, peak memory of the export and
of its children in MiB.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tunesmith.export.gguf import threads
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.workspace import Workspace, new_id


def copy_of(workspace: Workspace, model_id: str) -> str:
    """A model like `model_id` that was never exported."""
    store = ModelStore(workspace)
    record = store.get(model_id)
    copy = new_id("mdl")
    name = "weights" if record.method == "full" else "adapter"
    folder = workspace.models / copy
    shutil.copytree(store.folder(model_id) / name, folder / name)
    facts = ("base_model", "method", "prompt_format", "recipe", "dataset_id", "training")
    store.new(name=f"{record.name} again", model_id=copy, **{fact: getattr(record, fact) for fact in facts})
    store.update(copy, add_files=[describe_file(folder, folder / name, name)])
    return copy


def export(
    workspace: Workspace, model_id: str, quantizations: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The worker's result, and its steps with the second each began at."""
    run_dir = workspace.runs / new_id("run")
    run_dir.mkdir()
    arguments = {"model_id": model_id, "quantizations": quantizations, "adapter_only": False, "verify": True}
    spec = {"run_id": run_dir.name, "kind": "export", "args": arguments, "workspace": str(workspace.root)}
    (run_dir / "spec.json").write_text(json.dumps({**spec, "roots": [str(root) for root in workspace.roots.roots]}))
    begun = time.monotonic()
    steps: list[dict[str, Any]] = []
    command = [sys.executable, "-m", "tunesmith.export.worker", str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout or ():
            steps.append({"at": round(time.monotonic() - begun, 1), "step": line.strip()})
            print(steps[-1]["at"], steps[-1]["step"], flush=True)
    left = json.loads((run_dir / "result.json").read_text())
    if "result" not in left:
        raise SystemExit(left)
    steps.append({"at": round(time.monotonic() - begun, 1), "step": "ended"})
    return left["result"], steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("model")
    parser.add_argument("--quantizations", default="q8_0,q5_k_m,q4_k_m")
    options = parser.parse_args()
    workspace = Workspace(options.workspace.resolve(), [])
    copy = copy_of(workspace, options.model)
    result, steps = export(workspace, copy, options.quantizations.split(","))
    took = [
        {"step": step["step"], "seconds": round(after["at"] - step["at"], 1)}
        for step, after in itertools.pairwise(steps)
    ]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = {
        "seconds": steps[-1]["at"],
        "cores": threads(),
        "busy": round((used.ru_utime + used.ru_stime) / threads() / steps[-1]["at"], 2),
        "peak_mib": round(used.ru_maxrss / 1024),
        "steps": took,
        "model": copy,
    }
    print(json.dumps({**facts, "files": result["files"], "stop_rate": result["stop_rate"], "notes": result["notes"]}))


if __name__ == "__main__":
    main()
