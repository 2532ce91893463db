"""A figure of the accuracies under `strong`: is a set better than real images?"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dc_jax.sets.set_file import SET_NAME

_COLOURS = {True: "0.7", False: "C0"}


def to_png(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Draws a panel for each number of images per class, and in it a bar for each row.

    The fewest images are on top. Baselines are grey. Rows without an accuracy under
    `strong` are left out; without any the result is None.
    """
    # Imported here because it takes long.
    from matplotlib.figure import Figure

    rows = [row for row in rows if "strong" in row["cells"]]
    rows = sorted(rows, key=lambda row: sum(row["class_ipc"]))
    panels = list(dict.fromkeys(row["ipc"] for row in rows))
    if not panels:
        return None
    sizes = [sum(row["ipc"] == ipc for row in rows) for ipc in panels]
    figure = Figure(figsize=(7, 1 + 0.35 * len(rows)), layout="constrained")
    all_axes = figure.subplots(
        *(len(panels), 1), sharex=True, squeeze=False, height_ratios=sizes
    )
    for axes, ipc in zip(all_axes[:, 0], panels, strict=True):
        _bars(axes, [row for row in rows if row["ipc"] == ipc])
        axes.set_title(f"{ipc} per class", loc="left", fontsize="medium")
    all_axes[-1, 0].set_xlabel("test accuracy under strong, %; grey: baselines")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def _bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the bars of a panel, the best on top, with the deviation of networks."""
    rows = sorted(rows, key=lambda row: row["cells"]["strong"]["accuracy_mean"])
    cells = [row["cells"]["strong"] for row in rows]
    means = [100 * cell["accuracy_mean"] for cell in cells]
    bars = axes.barh(
        range(len(rows)),
        means,
        xerr=[100 * (cell["accuracy_std"] or 0) for cell in cells],
        color=[_COLOURS[row["method"] is not None] for row in rows],
    )
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.bar_label(bars, [f"{mean:.1f}" for mean in means], label_type="center")


def _label(row: Mapping[str, Any]) -> str:
    """Returns the method of a baseline; else the name of the file, or of the run."""
    if row["method"] is not None:
        return row["method"]
    path = Path(row["name"])
    name = path.parent.name if path.name == SET_NAME else path.name
    for ending in (".npz", ".safetensors", ".pt"):
        name = name.removesuffix(ending)
    return name
