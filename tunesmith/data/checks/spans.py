"""A piece of a text."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """Characters `start` to `end` (excluded) of a text, and what they are: the placeholder's name."""

    start: int
    end: int
    kind: str
