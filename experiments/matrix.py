"""Tables of which set is how good on which network, and their cells.

An experiment's config has `sets`, the fields of the runs that make them, by name, and
`tables`: each a tuple of entries (row, column, name of the set, network to test with).
A set, and a test of it, is made once, however many entries it has.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import sweep, tables
from experiments.cells import Cell, flatten
from experiments.paper import Value

Published = Callable[[str, str, str], Value | None]
# Of table 2, and of the ablations.
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
        # The networks that count are those of the tests.
        making = Cell({"set": name}, file, changes | {"num_evaluations": 1})
        cells.append(making)
        for network in networks:
            labels = {"set": name, "tested with": network}
            testing = changes | {"evaluation.network": network}
            cells.append(Cell(labels, file, testing, evaluates=(making,)))
    return cells


def report(
    config: ConfigDict, rows: list[sweep.Row], folder: Path, published: Published
) -> str:
    """Writes a file of each table, and returns all.

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


def find_entries(
    config: ConfigDict, rows: list[sweep.Row], title: str
) -> list[dict[str, Any]]:
    """Returns those entries of a table that are done: row, column and result."""
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


def square(names: dict[str, str]) -> tuple[tuple[str, str, str, str], ...]:
    """Returns the entries of a table of every set tested with every network.

    Args:
      names: networks, which sets are named after, by what the table calls them.
    """
    return tuple(
        (row, column, name, network)
        for row, name in names.items()
        for column, network in names.items()
    )
