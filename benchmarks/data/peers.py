"""Near-duplicates by other tools on the same texts; run by `scoring.py --peer NAME=PYTHON` with their interpreter.

    PYTHON benchmarks/data/peers.py NAME TEXTS.json

NAME: datasketch, llm-sanitizer-pro, data-juicer, data-juicer-default or text-dedup. Threshold 0.8; character 5-grams
where the tool can (datasketch, data-juicer), else what it does by itself. Prints one line of JSON: the texts that it
would drop, and seconds and peak MB of the work without the imports.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THRESHOLD = 0.8


def datasketch(texts: list[str], module: Any) -> list[int]:
    index = module.MinHashLSH(threshold=THRESHOLD, num_perm=128)
    later = []
    for number, text in enumerate(texts):
        sketch = module.MinHash(num_perm=128)
        sketch.update_batch([text[at : at + 5].encode() for at in range(max(1, len(text) - 4))])
        if index.query(sketch):
            later.append(number)
        index.insert(number, sketch)
    return later


def sanitizer(texts: list[str], module: Any) -> list[int]:
    index = module.MinHashDeduper(threshold=THRESHOLD)
    later = []
    for number, text in enumerate(texts):
        if index.contains(text):
            later.append(number)
        else:
            index.add(text)
    return later


def data_juicer(texts: list[str], module: Any, **options: Any) -> list[int]:
    dataset = importlib.import_module("data_juicer.core.data").NestedDataset.from_list(
        [{"text": text, "number": number} for number, text in enumerate(texts)]
    )
    operator = module.DocumentMinhashDeduplicator(jaccard_threshold=THRESHOLD, **options)
    hashed = dataset.map(operator.compute_hash)
    kept, _pairs = operator.process(hashed)
    return sorted(set(range(len(texts))) - set(kept["number"]))


def text_dedup(texts: list[str], _module: Any) -> list[int]:
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "texts.jsonl", Path(folder) / "out"
        with path.open("w", encoding="utf-8") as file:
            for number, text in enumerate(texts):
                file.write(json.dumps({"text": text, "number": number}) + "\n")
        command = [
            sys.executable, "-m", "text_dedup.minhash", "--path", "json", "--data_files", str(path),
            "--split", "train", "--cache_dir", folder,
            "--output", str(output), "--column", "text", "--threshold", str(THRESHOLD),
            "--num_proc", "1", "--batch_size", "10000",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        kept = importlib.import_module("datasets").load_from_disk(str(output))["number"]
    return sorted(set(range(len(texts))) - set(kept))


PEERS: dict[str, tuple[str, Callable[[list[str], Any], list[int]]]] = {
    "datasketch": ("datasketch", datasketch),
    "llm-sanitizer-pro": ("sanitizer_pro.dedup", sanitizer),
    "data-juicer": (
        "data_juicer.ops.deduplicator.document_minhash_deduplicator",
        lambda texts, module: data_juicer(texts, module, tokenization="character"),
    ),
    "data-juicer-default": ("data_juicer.ops.deduplicator.document_minhash_deduplicator", data_juicer),
    "text-dedup": ("text_dedup.minhash", text_dedup),
}


def main() -> None:
    name, path = sys.argv[1:]
    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    module_name, work = PEERS[name]
    module = None if name == "text-dedup" else importlib.import_module(module_name)
    wall = time.perf_counter()
    before = time.process_time() + _children_cpu()
    later = work(texts, module)
    used = time.process_time() + _children_cpu() - before
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024
    figures = {"wall_s": round(time.perf_counter() - wall, 2), "cpu_s": round(used, 2), "peak_mb": peak}
    print(json.dumps({"later": later, "figures": figures}))


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
