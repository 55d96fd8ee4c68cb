"""Bars with intervals, as SVG inside the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tunesmith.evaluation.records import Comparison, Interval

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 560, 46, 150, 100, 8
MAX_LABEL_CHARS = 20


def score_bars(comparison: Comparison) -> str:
    """Mean chrF of each model with its interval; empty where nothing has a reference."""
    rows = [(score.label, score.similarity.chrf) for score in comparison.models if score.similarity]
    if not rows:
        return ""
    top = max(10.0, *(value.high for _, value in rows)) * 1.05
    bars = _bars(rows, top=top, ticks=[0, round(top / 2), round(top)], form="{:.1f}", middle=None)
    return f"<figure><figcaption>Similarity to the references (chrF, 0 to 100)</figcaption>{bars}</figure>"


def win_bars(comparison: Comparison) -> str:
    """Each pair's win rate with its interval; empty where nothing was judged."""
    rows = [(f"{pair.a} / {pair.b}", pair.win_rate) for pair in comparison.pairs if pair.win_rate]
    if not rows:
        return ""
    bars = _bars(rows, top=1.0, ticks=[0, 0.5, 1], form="{:.0%}", middle=0.5)
    return f"<figure><figcaption>Win rate of the first of each pair (ties count half)</figcaption>{bars}</figure>"


def loss_plot(label: str, curve: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Training and held-out loss over the steps; empty where nothing was measured.

    Args:
        curve: `loss` and `eval_loss`, each as (step, nats a token).
    """
    if not curve:
        return ""
    every = [point for points in curve.values() for point in points]
    last, low, high = max(step for step, _ in every), min(loss for _, loss in every), max(loss for _, loss in every)
    low, high = min(low, high - 0.1) * 0.97, high * 1.03
    width, height, left, bottom = 560, 190, 44, 24

    def place(step: int, loss: float) -> str:
        x = left + (width - left - 60) * step / max(1, last)
        return f"{x:.1f},{8 + (height - bottom - 8) * (high - loss) / (high - low):.1f}"

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for tick in (low, (low + high) / 2, high):
        x, y = place(0, tick).split(",")
        parts.append(
            f'<line x1="{x}" x2="{width - 60}" y1="{y}" y2="{y}" stroke="var(--line)"/>'
            f'<text class="soft" x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:.2f}</text>'
        )
    for name, shown, colour in (("loss", "training", "var(--soft)"), ("eval_loss", "held out", "var(--accent)")):
        if points := curve.get(name):
            x, y = place(*points[-1]).split(",")
            parts.append(
                f'<polyline fill="none" stroke="{colour}" stroke-width="2" '
                f'points="{" ".join(place(*point) for point in points)}"/>'
                f'<text class="soft" x="{float(x) + 5:.1f}" y="{float(y) + 4:.1f}">{shown}</text>'
            )
    parts.append(f'<text class="soft" x="{width - 60}" y="{height - 4}" text-anchor="end">step {last}</text></svg>')
    title = f"Loss while {escape(label)} was trained, nats a token"
    return f"<figure><figcaption>{title}</figcaption>{''.join(parts)}</figure>"


def _bars(
    rows: Sequence[tuple[str, Interval]], *, top: float, ticks: Sequence[float], form: str, middle: float | None
) -> str:
    height = _TOP + _ROW * len(rows) + 24
    scale = (_WIDTH - _LEFT - _RIGHT) / top

    def x(value: float) -> float:
        return round(_LEFT + max(0.0, min(value, top)) * scale, 1)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">']
    for tick in ticks:
        dash = "none" if tick == middle else "2 4"
        parts.append(
            f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{height - 22}" stroke="var(--line)" '
            f'stroke-dasharray="{dash}"/><text class="soft" x="{x(tick)}" y="{height - 6}" text-anchor="middle">'
            f"{form.format(tick) if top == 1 else f'{tick:g}'}</text>"
        )
    for number, (label, value) in enumerate(rows):
        y = _TOP + number * _ROW + _ROW / 2
        shown = label if len(label) <= MAX_LABEL_CHARS else label[: MAX_LABEL_CHARS - 1] + "…"
        parts.append(
            f'<text x="0" y="{y + 4}">{escape(shown)}<title>{escape(label)}</title></text>'
            f'<rect x="{_LEFT}" y="{y - 11}" width="{round(x(value.mean) - _LEFT, 1)}" height="22" rx="3" '
            f'fill="var(--accent)" opacity="0.75"/>{_whisker(x(value.low), x(value.high), y)}'
            f'<text x="{_WIDTH}" y="{y + 4}" text-anchor="end">{form.format(value.mean)}</text>'
        )
    return "".join(parts) + "</svg>"


def _whisker(low: float, high: float, y: float) -> str:
    line = '<line x1="{}" x2="{}" y1="{}" y2="{}" stroke="var(--ink)" stroke-width="1.6"/>'
    return line.format(low, high, y, y) + line.format(low, low, y - 6, y + 6) + line.format(high, high, y - 6, y + 6)
