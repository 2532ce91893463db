"""Table 1: datasets, images a class and methods; `paper`, `cpu` or `smoke`.

python -m experiments.table1 --output=runs/table1 \
    --config=configs/experiments/table1.py:cpu
"""

from ml_collections import ConfigDict

METHODS = ("random", "herding", "k_center", "forgetting", "dc", "whole")


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the experiment as in the paper, for two CPU cores, or tiny."""
    config = ConfigDict()
    # Files of configs/.
    config.datasets = ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
    config.ipc = (1, 10, 50)
    config.methods = METHODS
    # Fields of all runs, and of those of a method.
    config.run = {}
    config.method = {}
    if size == "cpu":
        config.datasets = ("fashion_mnist",)
        config.ipc = (1, 10)
        config.run = {"num_experiments": 1}
        config.method = {"dc": {"iterations": 300}}
    elif size == "smoke":
        config.datasets = ("digits",)
        config.ipc = (1,)
        config.methods = ("dc",)
        config.run = {
            "num_experiments": 1,
            "num_evaluations": 2,
            "network": {"name": "MLP"},
            "evaluation": {"epochs": 2},
            "batch_real": 8,
        }
        config.method = {"dc": {"iterations": 2}}
    elif size != "paper":
        raise ValueError(f"table1 has the sizes paper, cpu and smoke, got {size!r}.")
    return config
