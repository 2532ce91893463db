"""What the configs of the experiments share."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# The networks of table 2, by the names that the paper gives them.
NETWORKS = ("MLP", "ConvNet", "LeNet", "AlexNet", "VGG11", "ResNet18")
# Fields of runs that take seconds.
SMOKE = {
    "num_experiments": 1,
    "num_evaluations": 2,
    "iterations": 2,
    "batch_real": 8,
    "evaluation": {"epochs": 2},
}
# Fields of runs that two CPU cores can do. Networks are tested on held-out training
# images, because these are fewer than the test images.
CPU = {"num_experiments": 1, "batch_real": 64, "dataset": {"validation": 2000}}


def condensing(network: str) -> dict[str, Any]:
    """Returns the fields of runs that condense with this network.

    As in the authors' code: batch norm, and average pooling, where matching needs it
    (tests replace batch norm by instance norm), and a learning rate for the MLP.
    """
    names = {"VGG11": "VGG11BN", "ResNet18": "ResNet18BN_AP"}
    fields: dict[str, Any] = {"network": {"name": names.get(network, network)}}
    return fields | ({"lr_img": 0.01} if network == "MLP" else {})


def run_fields(values: dict[str, Any]) -> ConfigDict:
    """Returns fields of all runs of an experiment: these, and what is often changed.

    A field that is None is left to the config of the dataset.
    """
    numbers = ("seed", "iterations", "num_experiments", "num_evaluations", "batch_real")
    config = ConfigDict({name: placeholder(int) for name in numbers})
    config.dataset = {"path": placeholder(str)}
    config.network = {"name": placeholder(str)}
    # Where random images are compared with, they are runs of their own.
    config.evaluation = {"random_baseline": False}
    config.update(values)
    return config


def square(names: dict[str, str]) -> tuple[tuple[str, str, str, str], ...]:
    """Returns the entries of a table of every set tested with every network.

    Args:
      names: networks, which are also the names of the sets, by their titles in the
        table.

    Returns:
      Entries for `experiments.sweep.matrix`: row, column, set, network to test with.
    """
    return tuple(
        (row, column, name, network)
        for row, name in names.items()
        for column, network in names.items()
    )


def check_size(size: str, sizes: tuple[str, ...]) -> None:
    """Checks the size of an experiment, which follows the colon of `--config`.

    Raises:
      ValueError: there is no such size.
    """
    if size not in sizes:
        raise ValueError(f"the config has the sizes {', '.join(sizes)}, got {size!r}.")
