"""Figure 4 of the paper: accuracy on the tasks seen while a network learns more.

python -m experiments.continual_learning --output=runs/continual
python -m experiments.continual_learning --output=runs/continual_classes \
    --config=configs/experiments/continual_learning.py:cpu_classes
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.sweep import experiment, tables
from experiments.sweep.cells import Cell, flatten
from experiments.sweep.paper import FIGURE4, Value
from experiments.sweep.results import Row

_NOTE = (
    "Mean test accuracy in percent over the tasks seen, mean ± standard deviation over "
    "seeds, with the paper's in brackets. A question mark: read off a plot."
)


def make_cells(config: ConfigDict) -> list[Cell]:
    """Returns a cell for each seed, memory and weight of distillation.

    Cells that differ only in the weight share a memory, which the first of them makes.
    """
    cells, run = [], flatten(config.run)
    for seed in config.seeds:
        for method in config.methods:
            first = ()
            for weight in config.distillation:
                labels = {
                    "scenario": config.scenario,
                    "memory": method,
                    "distillation": weight,
                    "seed": seed,
                }
                changes = run | {
                    "seed": seed,
                    "condense.method": method,
                    "distillation": weight,
                }
                cells.append(
                    Cell(
                        labels,
                        "configs/experiments/continual_run.py",
                        changes,
                        evaluates=first,
                        module="experiments.continual_learning.run",
                    )
                )
                first = first or (cells[-1],)
    return cells


def report(config: ConfigDict, rows: list[Row], folder: Path) -> str:
    """Draws the figure, and writes and returns its numbers as a table."""
    lines = _lines(rows)
    _plot(config.scenario, lines, folder / "figure4.png")
    num_tasks = max((line.shape[1] for line in lines.values()), default=0)
    table = tables.markdown(
        ["memory", "distillation", "seeds", *_heads(num_tasks)],
        (
            [*key, len(line), *_cells(line, _published(config, *key))]
            for key, line in lines.items()
        ),
    )
    text = f"{table}\n\n{_NOTE}\n"
    (folder / "figure4.md").write_text(text, "utf-8")
    return text


def _lines(rows: list[Row]) -> dict[tuple[str, float], np.ndarray]:
    """Returns the accuracies `[seeds, tasks]` by memory and weight of distillation."""
    found: dict[tuple[str, float], list[list[float]]] = {}
    for row in rows:
        key = (row["memory"], row["distillation"])
        found.setdefault(key, []).append(row["result"]["accuracies_seen"])
    return {key: np.array(accuracies) for key, accuracies in found.items()}


def _heads(num_tasks: int) -> list[str]:
    return [f"{number + 1} seen" for number in range(num_tasks)]


def _published(
    config: ConfigDict, method: str, weight: float
) -> tuple[Value | None, ...]:
    if not config.is_published:
        return ()
    return FIGURE4.get((method, weight > 0), ())


def _cells(line: np.ndarray, published: tuple[Value | None, ...]) -> list[str]:
    return [
        tables.both(
            {"accuracy_mean": column.mean(), "accuracy_std": column.std()},
            published[number] if number < len(published) else None,
        )
        for number, column in enumerate(line.T)
    ]


def _plot(title: str, lines: dict[tuple[str, float], np.ndarray], path: Path) -> None:
    # Imported here because it takes long.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    for (method, weight), line in lines.items():
        seen = np.arange(1, line.shape[1] + 1)
        mean, std = 100 * line.mean(0), 100 * line.std(0)
        label = f"{method}, {'with' if weight else 'without'} distillation"
        (drawn,) = axes.plot(seen, mean, "o-" if weight else "o--", label=label)
        axes.fill_between(
            seen, mean - std, mean + std, alpha=0.2, color=drawn.get_color()
        )
        axes.set_xticks(seen)
    axes.set(xlabel="tasks seen", ylabel="mean test accuracy, %", title=title)
    if lines:
        axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    experiment.main(
        make_cells, report, default="configs/experiments/continual_learning.py"
    )
