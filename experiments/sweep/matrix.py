"""Tables of sets by the networks they are tested with, and the cells of these tables.

The config of such an experiment has `sets`, the fields of the runs that make the sets,
by name; and `tables`, each a tuple of entries (row, column, name of the set, network to
test with). Every set is made once, and tested once with each network, even if several
entries have it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.sweep import tables
from experiments.sweep.cells import Cell, flatten
from experiments.sweep.paper import Value
from experiments.sweep.results import Row

Published = Callable[[str, str, str], Value | None]
# The dataset of table 2 and of the ablations in the paper.
_PUBLISHED_DATASET = "mnist"


def make_cells(config: ConfigDict) -> list[Cell]:
    """Returns the runs that make the sets, each with those that test it."""
    cells = []
    file, run = f"configs/{config.dataset}.py", flatten(config.run)
    targets: dict[str, dict[str, None]] = {}
    for table in config.tables.values():
        for _, _, name, network in table:
            targets.setdefault(name, {})[network] = None
    for name, networks in targets.items():
        changes = run | flatten(config.sets[name])
        # Only the networks of the tests count.
        making = Cell({"set": name}, file, changes | {"num_evaluations": 1})
        cells.append(making)
        for network in networks:
            labels = {"set": name, "tested with": network}
            testing = changes | {"evaluation.network": network}
            cells.append(Cell(labels, file, testing, evaluates=(making,)))
    return cells


def report(
    config: ConfigDict, rows: list[Row], folder: Path, published: Published
) -> str:
    """Writes a file and a figure for each table, and returns all tables.

    Args:
      config: the experiment.
      rows: of the sweep.
      folder: of the results.
      published: returns the paper's value for table, row and column, or None.
    """
    note = tables.NOTE
    if config.dataset != _PUBLISHED_DATASET:
        note += f" Ours are of {config.dataset}, the paper's of {_PUBLISHED_DATASET}."
    held_out = flatten(config.run).get("dataset.validation")
    if held_out:
        note += f" Ours are tested on {held_out} images held out of the training set."
    note += _iterations(rows)
    texts = []
    for title in config.tables:
        found = find_entries(config, rows, title)
        table = tables.pivot(
            found,
            ("condensed with",),
            "column",
            lambda row, title=title: published(
                title, row["condensed with"], row["column"]
            ),
        )
        (folder / f"{title}.md").write_text(f"{table}\n\n{note}\n", "utf-8")
        if found:
            _plot(title, found, folder / f"{title}.png")
        texts.append(f"{title}\n\n{table}")
    return "\n\n".join([*texts, note])


def _iterations(rows: list[Row]) -> str:
    """Returns a sentence on the iterations of the sets, if they are known."""
    sets: dict[int, list[str]] = {}
    for row in rows:
        if "iterations" in row["result"]:
            sets.setdefault(row["result"]["iterations"], []).append(row["set"])
    texts = [
        f"{iterations}" + (f" ({', '.join(names)})" if len(sets) > 1 else "")
        for iterations, names in sets.items()
    ]
    if not texts:
        return ""
    return f" Iterations of condensing, 1000 in the paper: {'; '.join(texts)}."


def _plot(title: str, entries: list[dict[str, Any]], path: Path) -> None:
    """Draws the entries of a table, at least one, as a heat map."""
    # Imported here because it takes long.
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(entry["condensed with"] for entry in entries))
    columns = list(dict.fromkeys(entry["column"] for entry in entries))
    means = np.full((len(rows), len(columns)), np.nan)
    for entry in entries:
        place = rows.index(entry["condensed with"]), columns.index(entry["column"])
        means[place] = 100 * entry["result"]["accuracy_mean"]
    size = (2 + 0.8 * len(columns), 1 + 0.5 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot(
        xticks=range(len(columns)),
        xticklabels=columns,
        yticks=range(len(rows)),
        yticklabels=rows,
        title=f"{title}, test accuracy, %",
    )
    axes.imshow(np.ma.masked_invalid(means), aspect="auto")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for (row, column), mean in np.ndenumerate(means):
        if np.isfinite(mean):
            color = "black" if mean > middle else "white"
            axes.text(column, row, f"{mean:.1f}", ha="center", va="center", color=color)
    figure.savefig(path, dpi=150)


def find_entries(
    config: ConfigDict, rows: list[Row], title: str
) -> list[dict[str, Any]]:
    """Returns the entries of a table that are done: row, column and result."""
    results = {
        (row["set"], row["tested with"]): row["result"]
        for row in rows
        if "tested with" in row
    }
    return [
        {"condensed with": row, "column": column, "result": results[name, network]}
        for row, column, name, network in config.tables[title]
        if (name, network) in results
    ]
