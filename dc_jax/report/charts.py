"""Line charts as SVG.

The styles are in `page.html`: `--accent`, the colour of a single line; `--lightness` of
the colours of several lines; and the classes `grid`, `band` and `legend`.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from dc_jax.report.markup import text

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, _WIDTH - 24, 10, _HEIGHT - 48  # Of the axes.
_POINTS = 400  # Of a line, at most. Groups of points are averaged to get there.

Line = tuple[Sequence[float], Sequence[float]]


def line_chart(
    lines: Mapping[str, Line], *, label: str, x_label: str, spread: Line | None = None
) -> str:
    """Returns a chart as an `<svg>`, followed by a legend if it has several lines.

    Args:
      lines: by name: the x and the y values of the points.
      label: a description of the chart for screen readers.
      x_label: the name of the horizontal axis.
      spread: the lower and the upper values of a band around a single line.
    """
    xs, ys = zip(*(map(_thin, line) for line in lines.values()), strict=True)
    low_high = [_thin(values) for values in spread or ()]
    x_ticks, y_ticks = _ticks(xs, is_whole=True), _ticks([*ys, *low_high])
    x_at = partial(np.interp, xp=x_ticks[[0, -1]], fp=(_LEFT, _RIGHT))
    y_at = partial(np.interp, xp=y_ticks[[0, -1]], fp=(_BOTTOM, _TOP))
    hues = [round(210 + 360 * i / len(lines)) % 360 for i in range(len(lines))]
    colours = [f"hsl({hue} 65% var(--lightness))" for hue in hues]
    if len(lines) == 1:
        colours = ["var(--accent)"]
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(label)}">',
        *_axes(x_ticks, y_ticks, x_at(x_ticks), y_at(y_ticks), x_label),
    ]
    if spread:
        low, high = map(y_at, low_high)
        points = _points(x_at(np.r_[xs[0], xs[0][::-1]]), np.r_[high, low[::-1]])
        parts.append(f'<polygon class="band" points="{points}" fill="{colours[0]}"/>')
    for x, y, colour in zip(map(x_at, xs), map(y_at, ys), colours, strict=True):
        parts.append(f'<polyline points="{_points(x, y)}" stroke="{colour}"/>')
        if len(x) <= 30:
            parts += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>'
                for a, b in zip(x, y, strict=True)
            ]
    parts.append("</svg>")
    if len(lines) > 1:
        items = (
            f'<li><span style="background:{colour}"></span>{text(name)}</li>'
            for name, colour in zip(lines, colours, strict=True)
        )
        parts.append(f'<ul class="legend">{"".join(items)}</ul>')
    return "\n".join(parts)


def _axes(x_ticks, y_ticks, x_places, y_places, x_label: str) -> list[str]:
    """Returns the ticks of both axes, at these places, and the name of the x axis."""
    parts = []
    for tick, place in zip(y_ticks, y_places, strict=True):
        y = f"{place:.1f}"
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}"/>',
            f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end" dy="5">{tick:g}</text>',
        ]
    for tick, place in zip(x_ticks, x_places, strict=True):
        x = f"{place:.1f}"
        parts += [
            f'<line class="grid" x1="{x}" x2="{x}" y1="{_BOTTOM}" y2="{_BOTTOM + 4}"/>',
            f'<text x="{x}" y="{_BOTTOM + 20}" text-anchor="middle">{tick:g}</text>',
        ]
    place = f'x="{(_LEFT + _RIGHT) / 2}" y="{_HEIGHT - 5}"'
    return [*parts, f'<text {place} text-anchor="middle">{text(x_label)}</text>']


def _ticks(values: Sequence[np.ndarray], *, is_whole: bool = False) -> np.ndarray:
    """Returns round numbers. The first and the last enclose the values."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(v.min() for v in values), max(v.max() for v in values)
    if low == high:
        pad = 1 if is_whole else abs(low) / 10 or 1
        low, high = low - pad, high + pad
    ticks = MaxNLocator(5, integer=is_whole, min_n_ticks=2).tick_values(low, high)
    # Rounding can leave 1e-17 for zero.
    return np.where(np.abs(ticks) < 1e-9 * (high - low), 0, ticks)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _thin(values: Sequence[float]) -> np.ndarray:
    """Returns the values, or the means of groups of them if there are too many."""
    values = np.asarray(values, float)
    starts = np.arange(0, len(values), -(-len(values) // _POINTS))
    counts = np.diff(np.r_[starts, len(values)])
    return np.add.reduceat(values, starts) / counts
