"""Line charts as SVG.

The styles are in `page.html`: `--accent`, the colour of a single line; `--lightness` of
the colours of several lines; and the classes `grid`, `band` and `legend`.
"""

import html
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 24, 10, 48
# The largest number of points of a line. Groups of points are averaged to get there.
_POINTS = 400

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
    thin = {name: (_thin(x), _thin(y)) for name, (x, y) in lines.items()}
    spread = spread and tuple(map(_thin, spread))
    ys = [y for _, y in thin.values()] + list(spread or ())
    x_ticks = _ticks([x for x, _ in thin.values()], is_whole=True)
    y_ticks = _ticks(ys)
    x_at = _scale(x_ticks, _LEFT, _WIDTH - _RIGHT)
    y_at = _scale(y_ticks, _HEIGHT - _BOTTOM, _TOP)
    colours = _colours(len(thin))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(label)}">',
        *_axes(x_ticks, y_ticks, x_at, y_at, x_label),
    ]
    if spread:
        ((x, _),) = thin.values()
        low, high = spread
        points = _points(np.r_[x, x[::-1]], np.r_[high, low[::-1]], x_at, y_at)
        parts.append(f'<polygon class="band" points="{points}" fill="{colours[0]}"/>')
    for (x, y), colour in zip(thin.values(), colours, strict=True):
        points = _points(x, y, x_at, y_at)
        parts.append(f'<polyline points="{points}" stroke="{colour}"/>')
        if len(x) <= 30:
            parts += [
                f'<circle cx="{x_at(a):.1f}" cy="{y_at(b):.1f}" r="2.5" '
                f'fill="{colour}"/>'
                for a, b in zip(x, y, strict=True)
            ]
    parts.append("</svg>")
    if len(thin) > 1:
        parts.append('<ul class="legend">')
        parts += [
            f'<li><span style="background:{colour}"></span>{html.escape(name)}</li>'
            for name, colour in zip(thin, colours, strict=True)
        ]
        parts.append("</ul>")
    return "\n".join(parts)


def _axes(x_ticks, y_ticks, x_at, y_at, x_label: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in y_ticks:
        y = f"{y_at(tick):.1f}"
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>',
            f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end" dy="5">{tick:g}</text>',
        ]
    for tick in x_ticks:
        x = f"{x_at(tick):.1f}"
        parts += [
            f'<line class="grid" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>',
            f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{tick:g}</text>',
        ]
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    return parts


def _ticks(values: list[np.ndarray], *, is_whole: bool = False) -> np.ndarray:
    """Returns round numbers. The first and the last enclose the values."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(v.min() for v in values), max(v.max() for v in values)
    if low == high:
        pad = 1 if is_whole else abs(low) / 10 or 1
        low, high = low - pad, high + pad
    locator = MaxNLocator(5, integer=is_whole, min_n_ticks=2)
    ticks = locator.tick_values(low, high)
    # Rounding can leave 1e-17 for zero.
    return np.where(np.abs(ticks) < 1e-9 * (high - low), 0, ticks)


def _scale(ticks: np.ndarray, begin: float, end: float) -> Callable[[float], float]:
    """Returns a function that maps the range of the ticks to that of the picture."""
    low, high = float(ticks[0]), float(ticks[-1])
    return lambda value: begin + (value - low) / (high - low) * (end - begin)


def _points(x: np.ndarray, y: np.ndarray, x_at, y_at) -> str:
    return " ".join(f"{x_at(a):.1f},{y_at(b):.1f}" for a, b in zip(x, y, strict=True))


def _thin(values: Sequence[float]) -> np.ndarray:
    """Returns the values, or the means of groups of them if there are too many."""
    values = np.asarray(values, float)
    starts = np.arange(0, len(values), -(-len(values) // _POINTS))
    counts = np.diff(np.r_[starts, len(values)])
    return np.add.reduceat(values, starts) / counts


def _colours(num: int) -> list[str]:
    """Returns colours that differ clearly; `page.html` sets how light they are."""
    if num == 1:
        return ["var(--accent)"]
    hues = [round(210 + 360 * i / num) % 360 for i in range(num)]
    return [f"hsl({hue} 65% var(--lightness))" for hue in hues]
