"""Reading a run's log and metrics: bounded, clean, without secrets."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

READ_LIMIT = 32 * 1024
LINE_LIMIT = 400
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SECRETS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})"
    r"|(?i:(?<=bearer )[A-Za-z0-9._-]{12,})"
)


def read_bytes(path: Path, offset: int | None = None) -> tuple[str, int, int]:
    """At most 32 KiB of a log as clean text.

    Args:
        offset: byte to read from; None for the end of the file.

    Returns:
        The text, the byte to go on from, the file's size. Memory does not depend on the size.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(0, size - READ_LIMIT) if offset is None else min(max(0, offset), size)
            file.seek(start)
            content = file.read(READ_LIMIT)
    except FileNotFoundError:
        return "", 0, 0
    return clean(content.decode("utf-8", errors="replace")), start + len(content), size


def tail(path: Path, lines: int) -> tuple[list[str], int]:
    """The last lines, each at most 400 characters, and how many earlier ones the last 32 KiB held."""
    text, _, _ = read_bytes(path)
    found = [_shorten(line) for line in text.splitlines() if line.strip()]
    shown = found[-lines:] if lines else []
    return shown, len(found) - len(shown)


def clean(text: str) -> str:
    """Without ANSI codes, control characters, overwritten progress lines and known kinds of keys."""
    lines = _ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    plain = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
    return _SECRETS.sub("[redacted]", _CONTROL.sub("", plain))


def last_record(path: Path) -> dict[str, Any] | None:
    """The last whole JSON line of a file; a half line at its end is skipped."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 8192))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        record = _parse(line)
        if record is not None:
            return record
    return None


def records(path: Path) -> list[dict[str, Any]]:
    """Every whole JSON line of a file; damaged lines are skipped."""
    try:
        with path.open("rb") as file:
            return [record for line in file if (record := _parse(line)) is not None]
    except FileNotFoundError:
        return []


def thin(points: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At most `limit` points, evenly spaced, the first and the last among them."""
    if len(points) <= limit:
        return points
    return [points[round(number * (len(points) - 1) / (limit - 1))] for number in range(limit)]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _shorten(line: str) -> str:
    return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]} … ({len(line) - LINE_LIMIT} characters more)"
