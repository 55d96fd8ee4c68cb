"""Reading a run's progress and measurements: lines of JSON; damaged ones are skipped, large files read in places.

A file that cannot be read (missing, a folder, another user's) counts as an empty one, as a damaged line counts as none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import orjson

from tunesmith.runs.plain_text import clean

RECORD_LIMIT = 64 * 1024  # bytes of a line of JSON; a longer one counts as damaged
SAMPLED_WHOLE = 1024 * 1024  # a file of measurements up to this size is read whole, a larger one at so many places:
PLACES, PLACE_BYTES = 64, 16 * 1024
PAGE_BYTES = 256 * 1024
HELD_OUT = "eval_loss"  # points that have it are few and tell most


@dataclass(frozen=True)
class Sample:
    """Some of the points of a file of measurements, in order; `left_out` is about how many were not taken."""

    points: list[dict[str, Any]]
    left_out: int


def last_record(path: Path) -> dict[str, Any] | None:
    """The last whole line of a file of JSON objects; a half line at its end is skipped."""
    for reach in (4096, SAMPLED_WHOLE):  # further back only when the last line is long
        for line in reversed(_end_of(path, reach).split(b"\n")):
            if (record := _parse(line)) is not None:
                return record
    return None


def last_progress(path: Path) -> dict[str, Any]:
    """What the newest whole line of `events.jsonl` tells.

    Returns:
        fraction (0 to 1), step, total_steps, eta_s (seconds), message (at most 300 characters); None, and "" for the
        message, where it is missing or of a wrong type.
    """
    last = last_record(path) or {}
    fraction, eta = _number(last.get("fraction")), _number(last.get("eta_s"))
    message = last.get("message")
    return {
        "fraction": min(1.0, fraction) if fraction is not None else None,
        "step": _count(last.get("step")),
        "total_steps": _count(last.get("total_steps")),
        "eta_s": eta,
        "message": clean(message[:RECORD_LIMIT])[:300] if isinstance(message, str) else "",
    }


def records(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a file of JSON objects; damaged lines are skipped."""
    try:
        with path.open("rb") as file:
            return [record for line in _lines(file) if (record := _parse(line)) is not None]
    except OSError:
        return []


def sample(path: Path, limit: int) -> Sample:
    """At most `limit` points of `metrics.jsonl`, evenly spread, the first and the last among them.

    Points with a held-out loss are preferred. Steps that the run went back behind, to a checkpoint, are left out where
    they were made again. Of a file over 1 MiB only 64 places are read, and `left_out` is
    an estimate. Values are finite numbers of 6 digits, clean text, booleans or None.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= SAMPLED_WHOLE:
                lines, seen = file.read().split(b"\n"), size
            else:
                lines, seen = _places(file, size), PLACES * PLACE_BYTES
    except OSError:
        return Sample([], 0)
    found = _standing([record for line in lines if (record := _parse(line)) is not None])
    points = [_plain(record) for record in thin(found, limit)]
    in_all = len(found) if seen == size else max(len(found), round(len(found) / seen * size))
    return Sample(points, in_all - len(points))


def page(path: Path, offset: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
    """At most `limit` points of `metrics.jsonl` from a byte on, all of them in order, and the byte to go on from.

    At most 256 KiB are read. None instead of a byte when no whole line follows.
    """
    before = min(offset, 1)  # one byte more tells whether the offset is the beginning of a line
    try:
        with path.open("rb") as file:
            file.seek(offset - before)
            content = file.read(PAGE_BYTES)
            more = len(content) == PAGE_BYTES
    except OSError:
        return [], None
    at = content.find(b"\n") + 1 if before and content[:1] != b"\n" else before
    if before and at == 0:
        return [], offset - before + PAGE_BYTES if more else None
    points: list[dict[str, Any]] = []
    while len(points) < limit and (end := content.find(b"\n", at)) != -1:
        record = _parse(content[at:end])
        points += [_plain(record)] if record is not None else []
        at = end + 1
    if at <= before and more:  # a line longer than a page
        at = PAGE_BYTES
    return points, offset - before + at if more or content.find(b"\n", at) != -1 else None


def thin(points: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At most `limit` points in order: the first, the last, those with a held-out loss up to half, the rest evenly."""
    if len(points) <= limit:
        return points
    kept = set(_spread([0, len(points) - 1], limit))
    held_out = [number for number, point in enumerate(points) if point.get(HELD_OUT) is not None]
    kept.update(_spread(held_out, min(limit // 2, limit - len(kept))))
    kept.update(_spread([number for number in range(len(points)) if number not in kept], limit - len(kept)))
    return [points[number] for number in sorted(kept)]


def _standing(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what was measured before the run went back to an earlier step: it was measured again, or will be."""
    kept: list[dict[str, Any]] = []
    lowest: dict[bool, float] = {}  # by kind, looks at held-out rows apart: the lowest step of the lines that follow
    for point in reversed(points):
        step, kind = _number(point.get("step")), point.get(HELD_OUT) is not None
        if step is not None:
            if step >= lowest.get(kind, math.inf):
                continue
            lowest[kind] = step
        kept.append(point)
    return kept[::-1]


def _spread(items: list[int], count: int) -> list[int]:
    if len(items) <= count:
        return items
    if count <= 1:
        return items[-count:] if count else []
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


def _places(file: IO[bytes], size: int) -> list[bytes]:
    """The whole lines of 64 evenly spread places of a file, the first at its beginning, the last at its end."""
    lines: list[bytes] = []
    for number in range(PLACES):
        start = round(number * (size - PLACE_BYTES) / (PLACES - 1))
        file.seek(start)
        found = file.read(PLACE_BYTES).split(b"\n")
        lines += found if start == 0 else found[1:]  # what is left of a line torn at either end cannot be parsed
    return lines


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines up to 64 KiB; longer ones are passed over without being held in memory."""
    whole = True
    while line := file.readline(RECORD_LIMIT):
        ends = line.endswith(b"\n")
        if whole and (ends or len(line) < RECORD_LIMIT):
            yield line
        whole = ends


def _end_of(path: Path, reach: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - reach))
            return file.read(reach)
    except OSError:
        return b""


def _parse(line: bytes) -> dict[str, Any] | None:
    if len(line) > RECORD_LIMIT:
        return None
    try:
        record = orjson.loads(line)  # refuses NaN, lone surrogates and deep nesting, all as ValueError
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {_plain_name(name): _plain_value(value) for name, value in list(record.items())[:40]}


@lru_cache(maxsize=256)  # the names are the same in every point
def _plain_name(name: str) -> str:
    return clean(name)[:60]


def _plain_value(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)[:200]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if isinstance(value, bool | int) else None


def _number(value: Any) -> float | None:
    """A number that is not negative."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if usable else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
