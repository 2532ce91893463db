"""Continual learning: memories by two methods, with and without distillation.

python -m experiments.continual_learning --output=runs/continual \
    --config=configs/experiments/continual_learning.py:cpu_tasks

Sizes: `paper`, three datasets of digits one after another; `cifar100_5` and
`cifar100_10`, the classes of CIFAR-100 in 5 and 10 steps; `cpu_tasks` and
`cpu_classes`, for two CPU cores; and `smoke`, tiny.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from dc_jax.configs.experiments.common import check_size

_SIZES = ("paper", "cifar100_5", "cifar100_10", "cpu_tasks", "cpu_classes", "smoke")
# What two CPU cores can run.
_CPU = {
    "condense": {
        "network": {"name": "ConvNetW32D2"},
        "init": "real",
        "iterations": 200,
        "inner_loop": 10,
        "batch_real": 128,
        "coreset": {"epochs": 5},
    },
    "training": {"iterations": 300, "fine_tuning": 500},
}


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the experiment as in the paper, or another of the sizes."""
    check_size(size, _SIZES)
    config = ConfigDict()
    # Name of the tasks, and whether they are the paper's.
    config.scenario = "svhn_mnist_usps"
    config.is_published = size == "paper"
    # Methods that make the memory; see `condense.method` of continual_run.py.
    config.methods = ("herding", "dc")
    # Weights of the distillation loss; each is a line of the figure.
    config.distillation = (0.0, 1.0)
    config.seeds = (0, 1, 2, 3, 4)
    # Fields of all runs; see continual_run.py.
    config.run = {}
    if size.startswith("cifar100"):
        steps = int(size.removeprefix("cifar100_"))
        config.scenario = f"cifar100_in_{steps}"
        config.run = {
            "tasks": "cifar100",
            "class_steps": steps,
            "condense": {"ipc": 20},
        }
    elif size == "cpu_tasks":
        config.scenario = "digits_mnist_rotated"
        config.seeds = (0, 1, 2)
        config.run = _CPU | {
            "tasks": "digits, mnist_5k, mnist_5k:rotated",
            "image_shape": "16x16x1",
        }
    elif size == "cpu_classes":
        config.scenario = "fashion_mnist_in_5"
        config.seeds = (0, 1, 2)
        config.run = _CPU | {
            "tasks": "fashion_mnist",
            "class_steps": 5,
            "image_shape": "16x16x1",
        }
        # A network that has learned two classes says little about other classes, so
        # match only the gradients of untrained networks.
        config.run.condense.outer_loop = 1
        config.run.condense.iterations = 1000
        config.run.training.fine_tuning = 2000
    elif size == "smoke":
        config.scenario = "digits_inverted"
        config.seeds = (0,)
        config.methods = ("random",)
        config.run = {
            "tasks": "digits, digits:inverted",
            "max_test": 100,
            "training": {"iterations": 8, "fine_tuning": 2, "batch_size": 64},
            "condense": {"network": {"name": "MLP"}, "ipc": 2},
        }
    # Folders of the files of datasets; see continual_run.py.
    config.run.path = placeholder(str)
    config.run.usps = placeholder(str)
    return config
