"""Table 1 of the paper: accuracy by dataset, images per class and method.

python -m experiments.table1 --output=runs/table1
python -m experiments.table1 --output=runs/table1 \
    --config=configs/experiments/table1.py:cpu
"""

from pathlib import Path

from ml_collections import ConfigDict

from dc_jax.report.published import TABLE1, WHOLE, Value
from experiments.sweep import experiment, tables
from experiments.sweep.cells import Cell, flatten
from experiments.sweep.results import Row


def make_cells(config: ConfigDict) -> list[Cell]:
    """Returns a cell per dataset, ipc and method; the whole set has no ipc."""
    cells = []
    for dataset in config.datasets:
        for method in config.methods:
            for ipc in config.ipc if method != "whole" else ("all",):
                changes = {"method": method, **flatten(config.run)}
                changes |= flatten(config.method.get(method, {}))
                if ipc != "all":
                    changes |= flatten(config.method.get(f"{method}-{ipc}", {}))
                    changes["ipc"] = ipc
                labels = {"dataset": dataset, "method": method, "ipc": ipc}
                cells.append(Cell(labels, f"configs/{dataset}.py", changes))
    return cells


def report(config: ConfigDict, rows: list[Row], folder: Path) -> str:
    """Writes and returns the table."""
    del config
    table = tables.pivot(rows, ("dataset", "ipc"), "method", published)
    text = f"{table}\n\n{tables.NOTE}\n"
    (folder / "table1.md").write_text(text, "utf-8")
    return text


def published(row: Row) -> Value | None:
    """Returns the paper's value of a cell, or None."""
    if row["method"] == "whole":
        return WHOLE.get(row["dataset"])
    return TABLE1.get((row["dataset"], row["ipc"], row["method"]))


if __name__ == "__main__":
    experiment.main(make_cells, report, default="configs/experiments/table1.py")
