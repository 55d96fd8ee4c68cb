"""The report's plots, as SVG inside the page: figures, pairs, each question, losses.

Colours are the page's variables, so that they follow light, dark and print. Text in a plot is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tunesmith.evaluation.records import Interval, Pair
from tunesmith.evaluation.report_figures import Differences
from tunesmith.evaluation.report_text import printable

# Drawn for a phone's width; on a desk two stand beside each other.
WIDTH, LEFT, RIGHT, ROW, TOP, AXIS = 440, 112, 62, 34, 6, 22
MAX_LABEL = 15
MOST_ROWS = 40  # questions that get a row of their own
MOST_BARS = 400


@dataclass(frozen=True)
class Bar:
    """One row of a plot.

    Attributes:
        value: what is drawn, with its interval where there is one.
        text: the value in words.
        colour: a CSS colour.
        hollow: only the outline, for people's scores beside a judge's.
    """

    label: str
    value: float
    text: str
    colour: str
    spread: Interval | None = None
    hollow: bool = False


def bars(title: str, rows: Sequence[Bar], *, low: float = 0.0, high: float, form: str = "{:g}", note: str = "") -> str:
    """Horizontal bars from `low` to `high` with whiskers; empty without rows."""
    if not rows:
        return ""
    parts = [_grid((low, (low + high) / 2, high), len(rows), form)]
    for number, row in enumerate(rows):
        y = TOP + number * ROW + ROW / 2
        start, end = _x(low, low, high), _x(row.value, low, high)
        paint = f'fill="none" stroke="{row.colour}" stroke-width="2"' if row.hollow else f'fill="{row.colour}"'
        parts.append(
            f'{_label(row.label, y)}<rect x="{start}" y="{y - 8:g}" width="{max(1.0, end - start):.1f}" height="16" '
            f'rx="3" {paint} opacity=".85"/>'
        )
        if row.spread is not None:
            parts.append(_whisker(_x(row.spread.low, low, high), _x(row.spread.high, low, high), y))
        parts.append(_value(row.text, y))
    return _figure(title, note, _svg(parts, TOP + ROW * len(rows) + AXIS, title))


def win_bars(pairs: Sequence[Pair], *, title: str) -> str:
    """Each pair's wins, ties and losses as one bar, with its win rate's interval; empty where nothing was judged."""
    rows = [pair for pair in pairs if pair.win_rate and pair.questions]
    if not rows:
        return ""
    height = 52
    parts = [_grid((0.0, 0.5, 1.0), len(rows), "{:.0%}", height)]
    for number, pair in enumerate(rows):
        rate = pair.win_rate
        assert rate is not None
        y = TOP + number * height + height / 2
        at = 0.0
        for count, colour, ink in (
            (pair.wins, "var(--good)", "in"),
            (pair.ties, "var(--line)", "soft"),
            (pair.losses, "var(--bad)", "in"),
        ):
            if not count:
                continue
            x, wide = _x(at, 0, 1), (WIDTH - LEFT - RIGHT) * count / pair.questions
            parts.append(f'<rect x="{x}" y="{y - 9:g}" width="{wide:.1f}" height="18" fill="{colour}" opacity=".8"/>')
            if wide > 18:
                parts.append(
                    f'<text class="{ink}" x="{x + wide / 2:.1f}" y="{y + 4:g}" text-anchor="middle">{count}</text>'
                )
            at += count / pair.questions
        parts += [
            _label(pair.a, y - 9),
            _label("/ " + pair.b, y + 9, soft=True),
            _whisker(_x(rate.low, 0, 1), _x(rate.high, 0, 1), y + 17),
            _dot(_x(rate.mean, 0, 1), y + 17, "var(--ink)"),
            _value(f"{rate.mean:.0%}", y),
        ]
    note = "Green: the upper one wins; grey: ties; red: it loses. Below: win rate, ties counted half, 95 % interval."
    return _figure(title, note, _svg(parts, TOP + height * len(rows) + AXIS, title))


def pair_forest(pairs: Sequence[Pair], *, title: str) -> str:
    """Every pair's mean difference with its interval around zero; empty where nothing was judged."""
    rows = [(pair, pair.difference) for pair in pairs if pair.difference is not None]
    if not rows:
        return ""
    reach = max(0.1, *(abs(end) for _, value in rows for end in (value.low, value.high))) * 1.1
    height = 46
    parts = [_grid((-reach, 0.0, reach), len(rows), "", height)]
    for number, (pair, value) in enumerate(rows):
        y = TOP + number * height + height / 2
        clear = value.low > 0 or value.high < 0
        colour = ("var(--good)" if value.mean > 0 else "var(--bad)") if clear else "var(--plain)"
        parts.append(
            f"{_label(pair.a, y - 7)}{_label('/ ' + pair.b, y + 10, soft=True)}"
            f"{_whisker(_x(value.low, -reach, reach), _x(value.high, -reach, reach), y)}"
            f"{_dot(_x(value.mean, -reach, reach), y, colour, 6)}{_value(f'{value.mean:+.1f}', y)}"
        )
    note = "Dot: mean over the questions; line: 95 % interval. Right of 0 the upper one is ahead."
    return _figure(title, note, _svg(parts, TOP + height * len(rows) + AXIS, title))


def question_plot(found: Differences, texts: Mapping[int, str]) -> str:
    """Each question's difference, sorted: a row for each, or one narrow bar each where they are many.

    Args:
        texts: of the questions, by number.
    """
    if not found.by_question:
        return ""
    ranked = sorted(found.by_question.items(), key=lambda item: -item[1])
    note = f"{found.candidate} minus {found.baseline}, {found.unit}; green: {found.candidate} is ahead." + (
        " The band: the mean's 95 % interval." if found.mean else ""
    )
    drawn = _question_rows(found, ranked, texts) if len(ranked) <= MOST_ROWS else _question_bars(found, ranked, texts)
    return _figure("Question by question", note, drawn, wide=True)


def loss_plot(label: str, curve: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Training and held-out loss over the steps; empty where nothing was measured.

    Args:
        curve: `loss` and `eval_loss`, each as (step, nats a token).
    """
    if not curve:
        return ""
    every = [point for points in curve.values() for point in points]
    last, low, high = max(step for step, _ in every), min(loss for _, loss in every), max(loss for _, loss in every)
    low, high = max(0.0, min(low, high - 0.1) * 0.94), high * 1.04
    height, left, right, bottom = 220, 40, 66, 26

    def place(step: int, loss: float) -> tuple[float, float]:
        x = left + (WIDTH - left - right) * step / max(1, last)
        return round(x, 1), round(8 + (height - bottom - 8) * (high - loss) / (high - low), 1)

    parts = []
    for tick in (low, (low + high) / 2, high):
        x, y = place(0, tick)
        parts.append(
            f'<line x1="{x}" x2="{WIDTH - right}" y1="{y}" y2="{y}" stroke="var(--line)"/>'
            f'<text class="soft" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
        )
    ends: list[float] = []
    for name, shown, colour in (("eval_loss", "held out", "var(--accent)"), ("loss", "training", "var(--soft)")):
        points = curve.get(name)
        if not points:
            continue
        thin = points[:: max(1, len(points) // 400)]
        line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in thin))
        strong = name == "eval_loss"
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="{2.5 if strong else 1.3}" points="{line}"/>'
        )
        if strong and len(points) <= 40:
            parts += [_dot(*place(*point), colour, 3.5) for point in points]
        x, y = place(*points[-1])
        while any(abs(y - other) < 13 for other in ends):
            y += 13
        ends.append(y)
        parts.append(f'<text class="soft" x="{x + 6}" y="{y + 4:.1f}" style="fill:{colour}">{shown}</text>')
    parts.append(f'<text class="soft" x="{WIDTH - right}" y="{height - 6}" text-anchor="end">step {last}</text>')
    title = f"Loss while {label} was trained"
    held_out = curve.get("eval_loss")
    note = "Nats a token." + (f" Held out: {held_out[0][1]:.2f} → {held_out[-1][1]:.2f}." if held_out else "")
    return _figure(title, note, _svg(parts, height, title))


def _question_rows(found: Differences, ranked: Sequence[tuple[int, float]], texts: Mapping[int, str]) -> str:
    reach = max(0.1, *(abs(value) for _, value in ranked)) * 1.05
    wide, left, row = 900, 390, 20
    height = TOP + row * len(ranked) + AXIS

    def x(value: float) -> float:
        return round(left + (wide - left - 60) * (value + reach) / (2 * reach), 1)

    parts = [_band(found, x, height - AXIS)]
    parts += [_tick(x(at), height, _signed(at), solid=at == 0) for at in (-reach, 0.0, reach)]
    for place, (number, value) in enumerate(ranked):
        y = TOP + place * row + row / 2
        text = " ".join(printable(texts.get(number, "")).split())
        shown = text if len(text) <= 52 else text[:51] + "…"
        colour = {"up": "var(--good)", "down": "var(--bad)"}.get(found.side(number), "var(--plain)")
        parts.append(
            f'<text class="soft" x="0" y="{y + 4:g}">{number}. {escape(shown)}</text>'
            f'<line x1="{x(0)}" x2="{x(value)}" y1="{y:g}" y2="{y:g}" stroke="{colour}" stroke-width="3"/>'
            f'{_dot(x(value), y, colour, 4.5)}<text class="soft" x="{wide}" y="{y + 4:g}" text-anchor="end">'
            f"{value:+.1f}</text>"
        )
    return _svg(parts, height, "Differences by question", wide=wide, kind="rows")


def _question_bars(found: Differences, ranked: Sequence[tuple[int, float]], texts: Mapping[int, str]) -> str:
    wide, left, top, height = 900, 44, 10, 240
    step = max(1, -(-len(ranked) // MOST_BARS))
    shown = ranked[::step]
    reach = max(0.1, *(abs(value) for _, value in ranked)) * 1.05
    each = (wide - left - 10) / len(shown)

    def y(value: float) -> float:
        return round(top + (height - top - 12) * (reach - value) / (2 * reach), 1)

    parts = [
        f'<line x1="{left}" x2="{wide}" y1="{y(tick)}" y2="{y(tick)}" stroke="var(--line)"/>'
        f'<text class="soft" x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">'
        f"{_signed(tick)}</text>"
        for tick in (-reach, 0.0, reach)
    ]
    if found.mean is not None:
        high, low = y(min(reach, found.mean.high)), y(max(-reach, found.mean.low))
        parts.append(
            f'<rect x="{left}" width="{wide - left}" y="{high}" height="{max(1.0, low - high):.1f}" '
            f'fill="var(--accent)" opacity=".18"/>'
        )
    for place, (number, value) in enumerate(shown):
        colour = {"up": "var(--good)", "down": "var(--bad)"}.get(found.side(number), "var(--plain)")
        upper, lower = sorted((y(value), y(0)))
        text = " ".join(printable(texts.get(number, "")).split())[:80]
        parts.append(
            f'<rect x="{left + place * each:.1f}" width="{max(0.6, each * 0.8):.1f}" y="{upper}" '
            f'height="{max(1.0, lower - upper):.1f}" fill="{colour}"><title>{number}. {escape(text)}: {value:+.1f}'
            "</title></rect>"
        )
    return _svg(parts, height, "Differences by question", wide=wide)


def _band(found: Differences, x, bottom: float) -> str:  # noqa: ANN001 - the scale of the plot that calls
    if found.mean is None:
        return ""
    low, high = x(found.mean.low), x(found.mean.high)
    return (
        f'<rect x="{low}" width="{max(1.0, high - low):.1f}" y="{TOP}" height="{bottom - TOP:g}" fill="var(--accent)" '
        'opacity=".18"/>'
    )


def _signed(value: float) -> str:
    """A tick around zero."""
    return "0" if value == 0 else f"{value:+.0f}" if abs(value) >= 10 else f"{value:+.1f}"


def _x(value: float, low: float, high: float) -> float:
    share = (min(max(value, low), high) - low) / (high - low)
    return round(LEFT + (WIDTH - LEFT - RIGHT) * share, 1)


def _grid(ticks: Sequence[float], rows: int, form: str, row: int = ROW) -> str:
    """Lines at ticks, the first and last of which end the scale; without a form they are signed."""
    low, high = ticks[0], ticks[-1]
    height = TOP + row * rows + AXIS
    return "".join(
        _tick(_x(tick, low, high), height, form.format(tick) if form else _signed(tick), solid=tick == 0)
        for tick in ticks
    )


def _tick(x: float, height: float, text: str, *, solid: bool) -> str:
    dash = "" if solid else ' stroke-dasharray="2 4"'
    return (
        f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{height - AXIS + 2:g}" stroke="var(--line)"{dash}/>'
        f'<text class="soft" x="{x}" y="{height - 5:g}" text-anchor="middle">{text}</text>'
    )


def _label(text: str, y: float, *, soft: bool = False) -> str:
    plain = printable(text)
    shown = plain if len(plain) <= MAX_LABEL else plain[: MAX_LABEL - 1] + "…"
    kind = ' class="soft"' if soft else ""
    return f'<text{kind} x="0" y="{y + 4:g}">{escape(shown)}<title>{escape(plain)}</title></text>'


def _value(text: str, y: float) -> str:
    return f'<text x="{WIDTH}" y="{y + 4:g}" text-anchor="end">{escape(text)}</text>'


def _dot(x: float, y: float, colour: str, radius: float = 4) -> str:
    return f'<circle cx="{x}" cy="{y:g}" r="{radius}" fill="{colour}"/>'


def _whisker(low: float, high: float, y: float) -> str:
    line = '<line x1="{}" x2="{}" y1="{:g}" y2="{:g}" stroke="var(--ink)" stroke-width="1.5"/>'
    return line.format(low, high, y, y) + line.format(low, low, y - 4, y + 4) + line.format(high, high, y - 4, y + 4)


def _svg(parts: Sequence[str], height: float, title: str, *, wide: int = WIDTH, kind: str = "") -> str:
    name = escape(printable(title), quote=True)
    return f'<svg class="{kind}" viewBox="0 0 {wide} {height:g}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def _figure(title: str, note: str, drawn: str, *, wide: bool = False) -> str:
    small = f"<small>{escape(printable(note))}</small>" if note else ""
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}><figcaption>{escape(printable(title))}{small}</figcaption>{drawn}</figure>"
