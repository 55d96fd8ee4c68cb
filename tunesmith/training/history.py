"""What finished runs measured: their speed and their peak memory against the prediction.

One append-only file in the workspace, one JSON line a run. Half a line, left by a
crash, is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from statistics import median
from typing import Any

from tunesmith.workspace import Workspace

FILE_NAME = "training-history.jsonl"
ENOUGH = 3  # measured runs before their errors replace the uncalibrated interval
LATEST = 20
MANY = 10  # runs from which the extremes are left out of an interval
MEMORY_MARGIN, SPEED_MARGIN = 0.1, 0.5  # memory is much the same each time; speed depends on what else runs
# Speed is taken to fall as the weights grow, to this power. The arithmetic of a token grows with the weights; what a
# step costs besides does not, so a small model gains less than its size says. An assumption, hence the wide interval.
BY_SIZE = 0.85


@dataclass(frozen=True)
class Measured:
    """One finished run. Memory in GiB; `tokens_per_s` counts real tokens; `parameters` of the base, 0: not known."""

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
    parameters: int = 0


@dataclass(frozen=True)
class Speed:
    """Real tokens a second to expect, with an interval, the seconds before the first step, and what it rests on."""

    tokens_per_s: float
    low: float
    high: float
    startup_s: float
    source: str


@dataclass(frozen=True)
class Ratios:
    """Measured ÷ predicted peak memory of runs, and which runs those are."""

    values: list[float]
    source: str


def method_of(method: str, objective: str) -> str:
    """What a run is filed under: two answers a row, and the base's scores of them, take another time and memory."""
    return method if objective == "sft" else f"{method} {objective}"


def record(workspace: Workspace, measured: Measured) -> None:
    """Append one run."""
    with (workspace.root / FILE_NAME).open("ab") as file:
        file.write(json.dumps(asdict(measured)).encode() + b"\n")


def speed(
    workspace: Workspace,
    *,
    base_model: str,
    parameters: int,
    engine: str,
    device: str,
    device_name: str,
    method: str,
    packing: bool,
) -> Speed | None:
    """What to expect from the latest runs like this one; None when nothing like it was measured.

    Runs of the same base and recipe count before those of the same base, and those before others on the same device,
    whose speed is scaled by the number of weights.
    """
    here = [
        line
        for line in _lines(workspace)
        if (line["engine"], line["device"]) == (engine, device) and line["tokens_per_s"] > 0
    ]
    here = [line for line in here if line["device_name"] == device_name] or here
    same = [line for line in here if line["base_model"] == base_model]
    like = [line for line in same if (line["method"], line["packing"]) == (method, packing)]
    for lines, what, doubt in ((like, "this base and method", 1.0), (same, "this base by other recipes", 1.5)):
        if lines:
            return _speed(lines[-LATEST:], lambda line: 1.0, f"{_runs(lines)} of {what} on this device", doubt)
    others = [line for line in here if line["parameters"]]
    others = [line for line in others if (line["method"], line["packing"]) == (method, packing)] or others
    if not others or not parameters:
        return None
    return _speed(
        others[-LATEST:],
        lambda line: (line["parameters"] / parameters) ** BY_SIZE,
        f"{_runs(others)} of other bases on this device, scaled by their size",
        2.0,
    )


def memory_ratios(workspace: Workspace, *, engine: str, device: str, method: str, packing: bool) -> Ratios:
    """Measured peak ÷ predicted peak of the latest runs: by the same method where there are enough of them."""
    lines = [
        line
        for line in _lines(workspace)
        if (line["engine"], line["device"]) == (engine, device) and line["predicted_peak_gib"] and line["peak_gib"]
    ]
    alike = [line for line in lines if (line["method"], line["packing"]) == (method, packing)]
    chosen = (alike if len(alike) >= ENOUGH else lines)[-LATEST:]
    what = f"by {method}" if len(alike) >= ENOUGH else f"with {engine}"
    return Ratios(
        [line["peak_gib"] / line["predicted_peak_gib"] for line in chosen],
        f"{len(chosen)} measured run{'s' * (len(chosen) != 1)} {what} in this workspace",
    )


def interval(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Where the next of such values is expected: the extremes, and a margin that shrinks as they become many.

    From `MANY` on a tenth at each end is left out, so that one odd run does not stay in every plan.

    Args:
        margin: what one value alone is widened by, beyond 3 %.
    """
    ordered = sorted(values)
    if len(ordered) >= MANY:
        cut = len(ordered) // 10
        ordered = ordered[cut : len(ordered) - cut]
    factor = 1.03 + margin / len(values)
    return ordered[0] / factor, ordered[-1] * factor


def _speed(
    lines: Sequence[dict[str, Any]], scale: Callable[[dict[str, Any]], float], source: str, doubt: float
) -> Speed:
    found = [line["tokens_per_s"] * scale(line) for line in lines]
    low, high = interval(found, SPEED_MARGIN)
    return Speed(median(found), low / doubt, high * doubt, median(line["startup_s"] for line in lines), source)


def _runs(lines: Sequence[Any]) -> str:
    count = min(len(lines), LATEST)
    return f"{count} run{'s' * (count != 1)}"


def _lines(workspace: Workspace) -> list[dict[str, Any]]:
    path = workspace.root / FILE_NAME
    if not path.is_file():
        return []
    needed = {field.name for field in fields(Measured) if field.default is MISSING}
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and needed <= line.keys():
            lines.append({"parameters": 0, **line})
    return lines
