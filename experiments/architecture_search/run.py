"""Trains networks of one shape, all in one program, and tests them.

  python -m experiments.architecture_search.run --config=configs/fashion_mnist.py \
      --config.evaluation.network=ConvNetD1AS,ConvNetD1AR --workdir=runs/shape \
      --set=runs/herding,runs/dc

It trains them on each of the given sets, or without `--set` on the whole training set.
The networks may differ in activation, and in which pooling they have. It writes
result.json to the workdir and, for the whole training set, the trained networks. The
same command continues a run that was stopped, and does not repeat a finished one.
"""

from pathlib import Path
from typing import Any

from experiments.sweep import command


def check(values: dict[str, Any], folder: Path) -> None:
    """Checks the values of a config, and that the folder is not another run's.

    Raises:
      UserError: one is bad, or it is.
    """
    from dc_jax.config import Config
    from experiments.architecture_search import shapes

    config = Config.create(values)
    shapes.check_names(config)
    shapes.read_result(config, folder)


def run(values: dict[str, Any], folder: str, *sets: str) -> dict[str, Any]:
    """Trains and tests the networks, see `shapes.run`."""
    # Not before: `--help` and a mistyped flag need not wait for JAX.
    from experiments.architecture_search import shapes

    return shapes.run(values, folder, *sets)


if __name__ == "__main__":
    command.main(run, None, sets="Folders of runs whose sets are trained on.")
