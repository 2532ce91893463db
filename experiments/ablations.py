"""The paper's ablations: width, depth, activation, pooling, norm, distance; and more.

python -m experiments.ablations --output=runs/ablations
"""

from experiments import matrix, sweep
from experiments.paper import ABLATIONS


def report(config, rows, folder) -> str:
    """Writes and returns the tables."""
    return matrix.report(config, rows, folder, lambda *cell: ABLATIONS.get(cell))


if __name__ == "__main__":
    sweep.main(matrix.make_cells, report, default="configs/experiments/ablations.py")
