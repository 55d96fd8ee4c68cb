"""What finished runs measured: their speed and their peak memory against the prediction.

One append-only file in the workspace, one JSON line a run. Half a line, left by a
crash, is skipped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tunesmith.workspace import Workspace

FILE_NAME = "training-history.jsonl"
ENOUGH = 3  # measured runs before their errors replace the uncalibrated interval
LATEST = 20


@dataclass(frozen=True)
class Measured:
    """One finished run. Memory in GiB; `tokens_per_s` counts real tokens."""

    run_id: str
    base_model: str
    engine: str
    device: str
    device_name: str
    method: str
    packing: bool
    tokens_per_s: float
    predicted_peak_gib: float | None
    peak_gib: float
    startup_s: float


def record(workspace: Workspace, measured: Measured) -> None:
    """Append one run."""
    with (workspace.root / FILE_NAME).open("ab") as file:
        file.write(json.dumps(asdict(measured)).encode() + b"\n")


def speed(workspace: Workspace, *, base_model: str, engine: str, device: str, method: str) -> float | None:
    """Median real tokens per second of the latest runs like this one; None if there are none."""
    found = [
        line["tokens_per_s"]
        for line in _lines(workspace)
        if (line["base_model"], line["engine"], line["device"], line["method"]) == (base_model, engine, device, method)
        and line["tokens_per_s"] > 0
    ]
    return median(found[-LATEST:]) if found else None


def memory_ratios(workspace: Workspace, *, engine: str, device: str) -> list[float]:
    """Measured peak ÷ predicted peak of the latest runs of that engine and device."""
    return [
        line["peak_gib"] / line["predicted_peak_gib"]
        for line in _lines(workspace)
        if (line["engine"], line["device"]) == (engine, device) and line["predicted_peak_gib"] and line["peak_gib"]
    ][-LATEST:]


def _lines(workspace: Workspace) -> list[dict[str, Any]]:
    path = workspace.root / FILE_NAME
    if not path.is_file():
        return []
    names = set(Measured.__dataclass_fields__)
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and names <= line.keys():
            lines.append(line)
    return lines
