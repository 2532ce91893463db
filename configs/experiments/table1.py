"""Table 1: datasets, images per class and methods; `paper`, `cpu` or `smoke`.

python -m experiments.table1 --output=runs/table1 \
    --config=configs/experiments/table1.py:cpu
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from dc_jax.configs.experiments.common import SMOKE, check_size, run_fields

# The paper's, and the two that its authors published after it.
METHODS = ("random", "herding", "k_center", "forgetting", "dc", "dsa", "dm", "whole")
# The method `forgetting` with its other rule.
_FORGETTING_ZERO = {"method": "forgetting", "coreset": {"never_learned": "zero"}}
_SHORT = {"batch_real": 64, "inner_loop": 10, "lr_net": 0.05}


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the experiment as in the paper, for two CPU cores, or tiny."""
    check_size(size, ("paper", "cpu", "smoke"))
    config = ConfigDict()
    # Files of configs/.
    config.datasets = ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
    config.ipc = (1, 10, 50)
    config.methods = METHODS
    # Fields of all runs; and of the runs of a method, or of a method at an ipc, as in
    # "dc-10". All runs share the networks that are trained on the whole set.
    config.run = run_fields({"coreset": {"networks": "runs/networks", "epochs": 20}})
    config.method = {}
    if size == "cpu":
        config.datasets = ("fashion_mnist",)
        config.ipc = (1, 10)
        # Also other rules of two methods.
        config.methods = (*METHODS, "nearest_mean", "forgetting_zero")
        config.run.num_experiments = 1
        config.method = {
            "random": {"num_experiments": 20, "num_evaluations": 1},
            "forgetting_zero": _FORGETTING_ZERO,
            # Training runs one epoch more: as many as for the coresets, with their
            # network.
            "whole": {"evaluation": {"epochs": 19}, "num_evaluations": 1},
            "dc-1": {"batch_real": 64, "iterations": 200},
            # A fifth of the steps of training, each with five times the learning rate.
            "dc-10": _SHORT | {"init": "real", "iterations": 40},
            "dsa": {"num_evaluations": 5},
            "dsa-1": {"batch_real": 64, "iterations": 200},
            "dsa-10": _SHORT | {"iterations": 80},
            "dm": {"iterations": 2000, "num_evaluations": 5},
        }
    elif size == "smoke":
        config.datasets = ("digits",)
        config.ipc = (1,)
        config.methods = ("random", "herding", "forgetting_zero", "whole", "dc")
        config.run = run_fields(
            SMOKE
            | {
                "network": {"name": "MLP"},
                "coreset": {"epochs": 2, "networks": placeholder(str)},
            }
        )
        config.method = {
            "forgetting_zero": _FORGETTING_ZERO,
            "whole": {"num_evaluations": 1},
        }
    return config
