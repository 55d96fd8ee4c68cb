"""An adapter trained on a base in 4 bits, merged and exported: the divergence at each hop. For a CUDA machine.

    python benchmarks/export/card.py [--scratch DIR] [--method qlora] [--base embedded|FOLDER] [--steps 60] [--dry-run]

Everything goes through the server, as an assistant would call it: examples/notes to rows, a short training, then
export_gguf. No network is needed. --dry-run: 10 steps of method lora, on any machine. The last line is JSON:

    trained_kld   16-bit base + adapter, from the 4-bit base + adapter that was trained (null for method lora)
    merge_kld     merged weights, from 16-bit base + adapter
    files         each GGUF, from the merged weights
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tunesmith.demo import call, examples_folder, finish

QUANTIZATIONS = ["f16", "q8_0", "q4_k_m"]
RESULT = ("trained_kld", "merge_kld", "stop_rate", "verified_on", "notes")
FILE = ("quantization", "bytes", "mean_kld", "p99_kld", "same_top_token", "perplexity_ratio")
TRAINED = ("eval_loss", "engine", "device", "dtype", "duration_s", "peak_gpu_gib")


async def hops(options: argparse.Namespace) -> dict[str, Any]:
    notes = examples_folder() / "notes"
    roots = [notes] + ([] if options.base == "embedded" else [Path(options.base).resolve()])
    workspace = options.scratch / "ws"
    workspace.mkdir(parents=True, exist_ok=True)
    arguments = ["-P", "-m", "tunesmith", "serve", "--workspace", str(workspace)]
    for root in roots:
        arguments += ["--allow-root", str(root)]
    server = StdioServerParameters(command=sys.executable, args=arguments, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    found: dict[str, Any] = {}
    with (options.scratch / "server.log").open("a", encoding="utf-8") as log:
        async with Client(stdio_client(server, errlog=log)) as client:

            async def work(tool: str, **given: Any) -> dict[str, Any]:
                began = time.monotonic()
                answer = await call(client, tool, given)
                if "state" in answer:
                    answer = await finish(client, answer)
                    if answer["state"] != "succeeded":
                        raise SystemExit(f"{tool}: {json.dumps(answer['error'])}\n{answer.get('log_tail')}")
                    answer = answer["result"]
                found.setdefault("seconds", {})[tool] = round(time.monotonic() - began, 1)
                print(tool, found["seconds"][tool], flush=True)
                return answer

            rows = (await work("extract_qa", source=str(notes), wait_s=0))["dataset"]
            split = await work("split_dataset", dataset_id=rows["dataset_id"], eval_fraction=0.2)
            recipe = {"method": options.method, "max_steps": options.steps, "learning_rate": 0.001}
            recipe |= {"eval_steps": max(1, options.steps // 2), "save_steps": options.steps}
            made = await work("start_training", dataset_id=split["dataset_id"], base_model=options.base, recipe=recipe)
            found["training"] = {name: made.get(name) for name in TRAINED}
            exported = await work("export_gguf", model=made["model_id"], quantizations=QUANTIZATIONS, wait_s=0)
            found |= {name: exported.get(name) for name in RESULT}
            found["files"] = [{name: file[name] for name in FILE} for file in exported["files"]]
    return {"method": options.method, "base": options.base, "steps": options.steps, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--method", choices=["qlora", "lora"], default="qlora")
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if options.dry_run:
        options.method, options.steps = "lora", min(options.steps, 10)
    options.scratch = (options.scratch or Path(tempfile.mkdtemp(prefix="tunesmith-card-"))).resolve()
    print(json.dumps(anyio.run(hops, options), ensure_ascii=False))


if __name__ == "__main__":
    main()
