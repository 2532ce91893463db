"""Table 3 of the paper: gradient matching and dataset distillation (DD).

  python -m experiments.dd_comparison --output=runs/dd_comparison

A set of DD is tested in two ways: by its own training with the learned learning rates,
as its authors do, and by the training that all methods have in common.
"""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.sweep import experiment, tables
from experiments.sweep.cells import Cell, flatten
from experiments.sweep.paper import TABLE3
from experiments.sweep.results import Row

_COLUMNS = {"dd": "dd, common training", "dc": "dc", "whole": "whole"}
_OWN = "dd, own training"


def make_cells(config: ConfigDict) -> list[Cell]:
    """Returns a cell per dataset, method and ipc; the whole set has no ipc."""
    cells = []
    for dataset, fields in config.datasets.items():
        for method in _COLUMNS:
            for ipc in config.ipc if method != "whole" else ("all",):
                changes = {"method": method, **flatten(config.run), **flatten(fields)}
                changes |= flatten(config.method.get(method, {}))
                changes |= flatten(config.special.get(f"{dataset}-{ipc}", {}))
                if ipc != "all":
                    changes["ipc"] = ipc
                labels = {"dataset": dataset, "method": method, "ipc": ipc}
                cells.append(Cell(labels, f"configs/{dataset}.py", changes))
    return cells


def report(config: ConfigDict, rows: list[Row], folder: Path) -> str:
    """Writes and returns the table.

    Datasets that are not in the paper stand beside its values for MNIST.
    """
    entries = []
    for row in rows:
        result = row["result"]
        if "own_protocol" in result:
            entries.append({**row, "method": _OWN, "result": result["own_protocol"]})
        entries.append({**row, "method": _COLUMNS[row["method"]]})
    table = tables.pivot(
        entries,
        ("dataset", "ipc"),
        "method",
        lambda row: TABLE3.get((_compared(row["dataset"]), row["ipc"], row["method"])),
    )
    note = tables.NOTE
    others = [name for name in config.datasets if _compared(name) != name]
    if others:
        note += f" Those beside {', '.join(others)} are for {_compared(others[0])}."
    text = f"{table}\n\n{note}\n"
    (folder / "dd_comparison.md").write_text(text, "utf-8")
    return text


def _compared(dataset: str) -> str:
    """Returns the dataset whose values in the paper stand beside ours."""
    return dataset if any(dataset == name for name, *_ in TABLE3) else "mnist"


if __name__ == "__main__":
    experiment.main(make_cells, report, default="configs/experiments/dd_comparison.py")
