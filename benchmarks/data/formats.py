"""Reading and writing files of rows: MB/s and peak memory. A table, then JSON lines.

    python benchmarks/data/formats.py [--megabytes 1000] [--others 200] [--into FOLDER]

Files are made in a temporary folder (or FOLDER), rows of about 940 bytes, a third of them Chinese. Each import and
export is a process of its own, started as a worker starts it, and its peak resident memory is that process's. Pages
are read from the large dataset through the store, the tool and the resource.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tunesmith.data.store import DatasetStore
from tunesmith.resources.dataset_views import rows_page
from tunesmith.runs.supervisor import Supervisor
from tunesmith.runs.watching import Watcher
from tunesmith.tools import data
from tunesmith.tools.services import Services
from tunesmith.workspace import Workspace

PAGES = 300
MB = 1e6
records: list[dict[str, Any]] = []

CHILD = """
import json, sys, time
from pathlib import Path
from tunesmith.workspace import Workspace
from tunesmith.data.importing import import_dataset
from tunesmith.data.exporting import export_dataset
work, root, folder, *rest = sys.argv[1:]
workspace = Workspace(Path(root), [Path(folder)])
wall, cpu = time.monotonic(), time.process_time()
if work == "import":
    made = import_dataset(workspace, rest[0])
    found = {"rows": made.rows, "dataset_id": made.dataset_id, "rejected": made.rejected_total}
else:
    made = export_dataset(workspace, rest[0], format=rest[1], path=rest[2], overwrite=True)
    found = {"rows": made.rows, "bytes": made.bytes}
# ru_maxrss would count the parent's memory at the fork; VmHWM begins anew with the program.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
found |= {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
found["peak_mb"] = int(peak.split()[1]) * 1024 / 1e6
print(json.dumps(found))
"""


def rows(megabytes: float) -> Iterator[dict[str, Any]]:
    """Alpaca rows until they have so many megabytes as JSONL."""
    chooser = random.Random(1)
    words = ["".join(chooser.choices("abcdefghijklmnopqrstuvwxyz", k=chooser.randint(2, 9))) for _ in range(5000)]
    han = [
        "".join(chooser.choices("山水云林海江湖石松竹梅兰春夏秋冬东南西北", k=chooser.randint(2, 6)))
        for _ in range(5000)
    ]
    texts = [
        "".join(chooser.choices(han, k=70)) + "。"
        if number % 3 == 0
        else " ".join(chooser.choices(words, k=130)) + '.\n"x"'
        for number in range(2000)
    ]
    size = number = 0
    while size < megabytes * MB:
        row = {
            "instruction": f"Question {number}: {words[number % 5000]} {words[number * 7 % 5000]}?",
            "input": "" if number % 4 else words[number % 977],
            "output": f"{number} {texts[number % 2000]}",
        }
        size += len(orjson.dumps(row)) + 1
        number += 1
        yield row


def make(path: Path, megabytes: float) -> None:
    """A file of the kind that its name says."""
    if path.suffix in (".jsonl", ".gz"):
        with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows(megabytes))
    elif path.suffix == ".json":
        with path.open("wb") as file:
            for number, row in enumerate(rows(megabytes)):
                file.write((b",\n" if number else b"[") + orjson.dumps(row))
            file.write(b"]\n")
    elif path.suffix == ".csv":
        with path.open("w", encoding="gb18030" if "gb18030" in path.name else "utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["instruction", "input", "output"])
            writer.writeheader()
            writer.writerows(rows(megabytes))
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(list(rows(megabytes))), path)


def child(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def record(what: str, megabytes: float, found: dict[str, Any]) -> None:
    figures = {
        "what": what,
        "mb": round(megabytes),
        "rows": found["rows"],
        "mb_per_s": round(megabytes / found["wall_s"], 1),
        "mb_per_cpu_s": round(megabytes / found["cpu_s"], 1),
        "peak_mb": round(found["peak_mb"]),
    }
    records.append(figures)
    print("  ".join(f"{value!s:>{28 if name == 'what' else 12}}" for name, value in figures.items()), flush=True)


def measure_pages(workspace: Workspace, dataset_id: str, total: int) -> None:
    runs = Supervisor(workspace)
    services = Services(workspace=workspace, runs=runs, watcher=Watcher(runs), ollama_host=None)
    (preview,) = (spec.fn for spec in data.tools(services) if spec.fn.__name__ == "preview_dataset")
    store = DatasetStore(workspace)
    readers = {
        "page_rows, 20 rows": lambda cursor: store.page_rows(dataset_id, 20, cursor),
        "preview_dataset, 20 rows": lambda cursor: preview(dataset_id, limit=20, cursor=cursor),
        "rows resource": lambda cursor: rows_page(store, dataset_id, cursor),
    }
    chooser = random.Random(2)
    for what, read in readers.items():
        times = []
        for _ in range(PAGES):
            cursor = str(chooser.randrange(1, total))
            began = time.perf_counter()
            read(cursor)
            times.append((time.perf_counter() - began) * 1000)
        times.sort()
        figures = {"what": what, "pages": PAGES, "p50_ms": round(statistics.median(times), 2)}
        figures |= {"p99_ms": round(times[int(0.99 * PAGES)], 2), "max_ms": round(times[-1], 2)}
        records.append(figures)
        print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1000, help="Of the JSONL file.")
    parser.add_argument("--others", type=float, default=200, help="Of the files of other kinds.")
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.into) as temporary:
        folder = Path(temporary)
        root = folder / "workspace"
        headings = ("what", "MB", "rows", "MB/s", "MB/CPU s", "peak MB")
        print("  ".join(f"{name:>{12 if number else 28}}" for number, name in enumerate(headings)))
        large = folder / "rows.jsonl"
        make(large, options.megabytes)
        found = child("import", str(root), str(folder), str(large))
        record("import .jsonl", large.stat().st_size / MB, found)
        large.unlink()
        dataset_id, total = found["dataset_id"], found["rows"]
        workspace = Workspace(root, [folder])
        measure_pages(workspace, dataset_id, total)
        for format in ("alpaca", "sharegpt", "messages", "prompt_completion"):
            out = folder / "out.jsonl"
            found = child("export", str(root), str(folder), dataset_id, format, str(out))
            record(f"export {format}", found["bytes"] / MB, found)
            out.unlink()
        for name in ("rows.json", "rows.csv", "gb18030.csv", "rows.jsonl.gz", "rows.parquet"):
            path = folder / name
            make(path, options.others)
            found = child("import", str(root), str(folder), str(path))
            # By the size of the rows as JSONL, so that packed files can be compared.
            record(f"import {name}", options.others, found)
            path.unlink()
    for each in records:
        print(json.dumps(each))


if __name__ == "__main__":
    main()
