"""The paper's ablations: width, depth, activation, pooling, norm, distance and more.

python -m experiments.ablations --output=runs/ablations
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.sweep import experiment, matrix
from experiments.sweep.paper import ABLATIONS
from experiments.sweep.results import Row


def report(config: ConfigDict, rows: list[Row], folder: Path) -> str:
    """Writes and returns the tables; draws figure 3 if there is its table."""
    if "ipc" in config.tables:
        _plot(matrix.find_entries(config, rows, "ipc"), folder / "figure3.png")
    return matrix.report(config, rows, folder, lambda *cell: ABLATIONS.get(cell))


def _plot(entries: list[dict[str, Any]], path: Path) -> None:
    """Draws figure 3: accuracy against images per class."""
    # Imported here because it takes long.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    ours = {int(entry["column"]): entry["result"] for entry in entries}
    axes.errorbar(
        list(ours),
        [100 * result["accuracy_mean"] for result in ours.values()],
        [100 * result["accuracy_std"] for result in ours.values()],
        fmt="o-",
        label="ours",
    )
    paper = {
        int(column): value.mean
        for (table, _, column), value in ABLATIONS.items()
        if table == "ipc"
    }
    axes.plot(list(paper), list(paper.values()), "s--", label="paper, MNIST")
    axes.set(xlabel="images per class", ylabel="test accuracy, %")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    experiment.main(
        matrix.make_cells, report, default="configs/experiments/ablations.py"
    )
