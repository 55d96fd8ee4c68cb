"""The loss curve as one small SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, MARGIN = 640, 320, 44


def loss_svg(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Training loss (line) and held-out loss (dots and line) over optimizer steps.

    Args:
        metrics: lines of `metrics.jsonl`; points that are missing or not finite are left out.
    """
    train, held_out = _points(metrics, "loss"), _points(metrics, "eval_loss")
    every = train + held_out
    body = '<text x="50%" y="50%" text-anchor="middle">no steps yet</text>'
    if every:
        last = max(1.0, *(step for step, _ in every))
        low, high = min(loss for _, loss in every), max(loss for _, loss in every)
        span = (high - low) or 1.0

        def place(point: tuple[float, float]) -> tuple[float, float]:
            return (
                MARGIN + point[0] / last * (WIDTH - 2 * MARGIN),
                HEIGHT - MARGIN - (point[1] - low) / span * (HEIGHT - 2 * MARGIN),
            )

        body = _line([place(p) for p in train], "#4269d0") + _line([place(p) for p in held_out], "#c2410c")
        body += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#c2410c"/>' for x, y in map(place, held_out))
        body += (
            f'<text x="{MARGIN - 6}" y="{MARGIN + 4}" text-anchor="end">{high:.2f}</text>'
            f'<text x="{MARGIN - 6}" y="{HEIGHT - MARGIN + 4}" text-anchor="end">{low:.2f}</text>'
            f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 14}" text-anchor="end">step {last:.0f}</text>'
            f'<text x="{MARGIN}" y="20" fill="#4269d0">training loss</text>'
            f'<text x="{MARGIN + 110}" y="20" fill="#c2410c">held-out loss</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{body}</svg>'
    )


def _points(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    found = []
    for line in metrics:
        step, value = line.get("step"), line.get(name)
        if isinstance(step, int) and isinstance(value, (int, float)) and math.isfinite(value):
            found.append((float(step), float(value)))
    return found


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>'
