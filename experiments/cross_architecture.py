"""Table 2 of the paper: images condensed with one network train other networks.

python -m experiments.cross_architecture --output=runs/cross_architecture
"""

from experiments.sweep import experiment, matrix
from experiments.sweep.paper import TABLE2


def report(config, rows, folder) -> str:
    """Writes and returns the table."""
    return matrix.report(
        config, rows, folder, lambda _, row, column: TABLE2.get((row, column))
    )


if __name__ == "__main__":
    experiment.main(
        matrix.make_cells, report, default="configs/experiments/cross_architecture.py"
    )
