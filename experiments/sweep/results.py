"""The results of cells as files: `results.csv` and `results.jsonl`."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dc_jax.errors import UserError
from experiments.sweep.cells import Cell

# The labels of a cell, and `result`: what its run wrote.
Row = dict[str, Any]
_NAME = "results.csv"
# The file in the folder of the results that names their experiment.
_OWNER = "experiment.txt"
# Kinds of files that reports write there; cells have their own folders.
_WRITTEN = {".csv", ".jsonl", ".md", ".png"}
# Columns besides the labels. "of" says which of several accuracies of a cell it is.
_COLUMNS = ("accuracy", "std", "networks", "sets", "seconds", "of")
# A label; or, if a cell trains networks of several names, the name of one.
_NETWORK = "network"


def check_is_ours(name: str, folder: Path, output: str) -> None:
    """Checks that a folder has no results of another experiment.

    Args:
      name: of this experiment.
      folder: of the results.
      output: the folder as the user wrote it.

    Raises:
      UserError: it has, or it has files that are no experiment's.
    """
    path = folder / _OWNER
    if not path.exists():
        files = folder.iterdir() if folder.is_dir() else ()
        other = next((file for file in files if file.suffix in _WRITTEN), None)
        if other is not None:
            raise UserError(
                f"--output={output} has files that no experiment wrote, such as "
                f"{other.name}; choose another folder."
            )
        return
    theirs = path.read_text("utf-8").strip()
    if theirs != name:
        raise UserError(
            f"--output={output} has results of another experiment, {theirs}; choose "
            "another folder."
        )


def claim(name: str, folder: Path) -> None:
    """Marks a folder as that of an experiment's results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _OWNER).write_text(f"{name}\n", "utf-8")


def read_rows(cells: list[Cell], folder: Path) -> list[Row]:
    """Returns the rows of the cells that are done."""
    return [{**c.labels, "result": result} for c, result in _results(cells, folder)]


def _results(cells: list[Cell], folder: Path) -> list[tuple[Cell, dict[str, Any]]]:
    """Returns the cells that are done, with their results."""
    results = ((cell, cell.read_result(folder)) for cell in cells)
    return [(cell, result) for cell, result in results if result is not None]


def write_rows(cells: list[Cell], folder: Path) -> list[Row]:
    """Writes the results of the cells that are done; returns the rows.

    `results.csv` has a line for each accuracy; `results.jsonl` has all that the runs
    wrote.
    """
    done = _results(cells, folder)
    rows = [{**cell.labels, "result": result} for cell, result in done]
    lines = [{**c.labels, **line} for c, result in done for line in _lines(c, result)]
    networks = [_NETWORK] if any(_NETWORK in line for line in lines) else []
    names = dict.fromkeys((*_label_names(cells), *networks, *_COLUMNS))
    with open(folder / _NAME, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)
    with open(folder / "results.jsonl", "w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    return rows


def _lines(cell: Cell, result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what `results.csv` tells of a cell besides its labels."""
    networks = result.get("networks", {None: result})
    parts = [
        (name, *part) for name, one in networks.items() for part in _parts(cell, one)
    ]
    for name, of, accuracies, sets in parts:
        line = {} if name is None else {_NETWORK: name}
        yield line | {
            "accuracy": f"{100 * np.mean(accuracies):.2f}",
            "std": f"{100 * np.std(accuracies):.2f}",
            "networks": np.size(accuracies),
            "sets": sets,
            # The lines of a cell share its time.
            "seconds": round(result["seconds"] / len(parts), 3),
            "of": of,
        }


def _parts(cell: Cell, result: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Yields accuracies of a result: their name, fractions, and number of sets."""
    accuracies = result["accuracies"]
    if len(cell.evaluates) > 1:
        for other, of_set in zip(cell.evaluates, accuracies, strict=True):
            yield other.name, of_set, 1
        return
    yield "", accuracies, result["num_experiments"]
    if "own_protocol" in result:
        own = result["own_protocol"]
        yield "own training", own["accuracies"], own["num_experiments"]
    for number, accuracy in enumerate(result.get("accuracies_seen", [])[:-1], 1):
        yield f"tasks until {number}", accuracy, result["num_experiments"]


def _label_names(cells: list[Cell]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells for name in cell.labels))
