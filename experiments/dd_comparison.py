"""Table 3 of the paper: gradient matching and dataset distillation (DD).

  python -m experiments.dd_comparison --output=runs/dd_comparison

A set of DD is tested by its own training, with the learned learning rates, as its
authors do, and by the one that all methods have in common.
"""

from pathlib import Path

from ml_collections import ConfigDict

from experiments import sweep, tables
from experiments.cells import Cell, flatten
from experiments.paper import TABLE3

_COLUMNS = {"dd": "dd, common training", "dc": "dc", "whole": "whole"}
_OWN = "dd, own training"


def make_cells(config: ConfigDict) -> list[Cell]:
    """Returns a cell for each dataset, method and ipc; the whole set has no ipc."""
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


def report(config: ConfigDict, rows: list[sweep.Row], folder: Path) -> str:
    """Writes and returns the table."""
    del config
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
        lambda row: TABLE3.get((row["dataset"], row["ipc"], row["method"])),
    )
    text = f"{table}\n\n{tables.NOTE}\n"
    (folder / "dd_comparison.md").write_text(text, "utf-8")
    return text


if __name__ == "__main__":
    sweep.main(make_cells, report, default="configs/experiments/dd_comparison.py")
