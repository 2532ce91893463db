"""Figure 1(a) of the paper: accuracy against the time to train a network on a set.

The time is the mean of a cell per network, including tests and compilation.

  python -m experiments.figure1 --output=runs/figure1

The sets are the cells of Table 1, so with its --output no cell runs twice.
"""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.sweep import experiment, tables
from experiments.sweep.results import Row
from experiments.table1 import make_cells, published


def report(config: ConfigDict, rows: list[Row], folder: Path) -> str:
    """Draws the figure; returns its numbers as a table."""
    del config
    points = [(row, seconds_per_network(row["result"])) for row in rows]
    _plot(points, folder / "figure1.png")
    text = tables.markdown(
        ("dataset", "method", "ipc", "seconds to train and test a network", "accuracy"),
        (
            [
                *(str(row[name]) for name in ("dataset", "method", "ipc")),
                f"{seconds:.3g}",
                tables.both(row["result"], published(row)),
            ]
            for row, seconds in points
        ),
    )
    text = f"{text}\n\n{tables.NOTE}"
    (folder / "figure1.md").write_text(f"{text}\n", "utf-8")
    return text


def seconds_per_network(result: dict) -> float:
    """Returns the time to train and test one network, including compilation."""
    networks = result["num_experiments"] * result["num_evaluations"]
    return (result["seconds"] - result.get("seconds_condense", 0)) / networks


def _plot(points: list[tuple[Row, float]], path: Path) -> None:
    # Imported here because it takes long.
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["dataset"] for row, _ in points))
    figure = Figure(figsize=(5 * max(1, len(names)), 4), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        for method in dict.fromkeys(row["method"] for row, _ in points):
            line = [
                (seconds, 100 * row["result"]["accuracy_mean"], row["ipc"])
                for row, seconds in points
                if (row["dataset"], row["method"]) == (name, method)
            ]
            if not line:
                continue
            times, accuracies, ipcs = zip(*line, strict=True)
            axes.plot(times, accuracies, "o-", label=method)
            for time, accuracy, ipc in line:
                axes.annotate(
                    str(ipc), (time, accuracy), (4, 4), textcoords="offset points"
                )
        axes.set(
            xscale="log",
            xlabel="seconds to train and test a network",
            ylabel="test accuracy, %",
            title=name,
        )
        axes.margins(0.1)  # Space for the numbers.
        axes.legend(title="numbers: images per class")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    experiment.main(make_cells, report, default="configs/experiments/table1.py")
