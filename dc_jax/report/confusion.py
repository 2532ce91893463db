"""The section with the confusion matrix of the evaluation networks."""

from collections.abc import Sequence

import numpy as np

from dc_jax.report import markup
from dc_jax.report.files import Files
from dc_jax.report.markup import text
from dc_jax.sets.image_grid import to_png

_CELLS = 20  # With more classes than this the matrix is a picture, not a table.
_PIXELS = 480  # The width of that picture on the page, about.
_DARK = 0.8  # From this share on a cell is so dark that its number is white.
_WORST = 10  # How many mistakes to list.


def confusion(run: Files) -> str:
    """Returns the confusion matrix and the most frequent mistakes."""
    counts = run.confusion
    names = run.sets[0].class_names if run.sets else ()
    if counts is None or len(names) != len(counts):
        return ""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(counts) <= _CELLS:
        matrix = _table(shares, names)
    else:
        size = len(counts) * max(_PIXELS // len(counts), 1)
        alt = (
            "Confusion matrix: a brighter pixel means that the networks take more "
            "images of the row's class for the column's class"
        )
        png = to_png(np.rint(255 * shares).astype(np.uint8)[..., None])
        matrix = markup.image(png, alt, (size, size))
    return (
        "<p>Each row is the true class of the test images, each column the class that "
        "the evaluation networks predict, in percent of the row.</p>"
        f"{matrix}{_mistakes(shares, names)}"
    )


def _table(shares: np.ndarray, names: Sequence[str]) -> str:
    rows = ""
    for name, row in zip(names, shares, strict=True):
        rows += f'<tr><th scope="row">{text(name)}</th>'
        for share in row:
            style = " class=much" if share >= _DARK else ""
            percent = 100 * share
            rows += f'<td style="--share:{percent:.0f}%"{style}>{percent:.1f}</td>'
        rows += "</tr>"
    head = f"<td></td>{markup.headings(names)}"
    return markup.scrolling("Confusion matrix", "confusion", head, rows)


def _mistakes(shares: np.ndarray, names: Sequence[str]) -> str:
    wrong = shares * (1 - np.eye(len(shares)))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:_WORST]
    items = "".join(
        f"<li>{text(names[i])} taken for {text(names[j])}: {100 * wrong[i, j]:.1f} %"
        "</li>"
        for i, j in zip(*np.unravel_index(worst, wrong.shape), strict=True)
        if wrong[i, j] > 0
    )
    return f"<h3>Most frequent mistakes</h3><ol>{items}</ol>" if items else ""
