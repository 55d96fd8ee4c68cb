"""JSON out of what a model wrote: in fences, after thoughts, in the middle of prose, or cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

MAX_CHARS = 200_000
MAX_ATTEMPTS = 200
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_OPENING = re.compile(r"[{\[]")
_decoder = json.JSONDecoder()


class Unreadable(Exception):
    """A reply that is not what was asked for; the message says how, completing "the reply …"."""


def read_objects(text: str, wrapper: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """The objects that a reply holds: `{wrapper: [object, …]}`, a bare list of them, or one alone.

    Of a reply that is cut off, those that are whole.

    Args:
        names: an object with none of these fields is something else.

    Raises:
        Unreadable: it is empty, too long, holds no JSON, or JSON of another form.
    """
    values = _values(_bare(text))
    if not values:
        raise Unreadable("holds no whole JSON")
    found = [entry for value in values for entry in _unwrapped(value, wrapper)]
    objects = [entry for entry in found if isinstance(entry, dict) and any(name in entry for name in names)]
    nothing = any((value.get(wrapper) if isinstance(value, dict) else value) == [] for value in values)
    if not objects and not nothing:
        raise Unreadable("holds JSON of another form than asked for")
    return objects


def _unwrapped(value: Any, wrapper: str) -> list[Any]:
    if isinstance(value, dict) and isinstance(value.get(wrapper), list):
        return value[wrapper]
    return value if isinstance(value, list) else [value]


def _bare(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise Unreadable(f"has {len(text):,} characters")
    bare = _THOUGHT.sub("", text).strip()
    if not bare:
        raise Unreadable("is empty")
    return bare


def _values(text: str) -> list[Any]:
    """The JSON values in a text: all of it, what is in a fence, or whatever stands whole after a bracket."""
    for candidate in (text, *(match.group(1) for match in _FENCE.finditer(text))):
        try:
            return [json.loads(candidate)]
        except (ValueError, RecursionError):
            continue
    found: list[Any] = []
    place = 0
    for _ in range(MAX_ATTEMPTS):
        match = _OPENING.search(text, place)
        if match is None:
            break
        try:
            value, place = _decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            place = match.end()
            continue
        found.append(value)
    return found
