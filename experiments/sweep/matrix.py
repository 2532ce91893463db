"""Tables of sets by the networks they are tested with, and the cells of these tables.

The config of such an experiment has `sets`, the fields of the runs that make the sets,
by name; and `tables`, each a tuple of entries (row, column, name of the set, network to
test with). Every set is made once, and tested once with each network, even if several
entries have it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """Writes a file for each table, and returns all tables.

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
