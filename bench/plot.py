"""Measured series as a small SVG: logarithmic across, from zero upwards, a line per series. No dependency."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 48
_COLOURS = ("#1f6fb4", "#c4551d", "#2f8f4e", "#7b4fa3", "#8a6d1b")


def svg(title: str, across: str, upwards: str, series: Mapping[str, Points]) -> str:
    """
    Draw `series`, each a list of (x, y) with x above zero.

    Args:
        across, upwards: What the axes show, with the unit.
    """
    xs = sorted({x for points in series.values() for x, _ in points})
    top = _rounded_up(max(y for points in series.values() for _, y in points))
    low, high = math.log10(xs[0]), math.log10(xs[-1])
    span = (high - low) or 1.0

    def place(x: float, y: float) -> str:
        right = _LEFT + (math.log10(x) - low) / span * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM)
        return f"{right:.1f},{down:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"',
        ' font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="18" font-size="13">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{escape(across)}</text>',
        f'<text x="{_LEFT}" y="33" fill="#777">{escape(upwards)}</text>',
    ]
    for step in range(5):
        value = top * step / 4
        (left, down) = place(xs[0], value).split(",")
        parts.append(f'<path d="M{left},{down}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{float(down) + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for x in xs:
        right = place(x, 0).split(",")[0]
        parts.append(f'<text x="{right}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_short(x)}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points:
            right, down = place(x, y).split(",")
            parts.append(f'<circle cx="{right}" cy="{down}" r="3" fill="{colour}"/>')
        down = 18 + 14 * number
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{down}" text-anchor="end" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _rounded_up(value: float) -> float:
    """Return the next number of one digit that can be quartered, and more than zero."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 2, 4, 6, 8, 10) if step * scale >= value)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
