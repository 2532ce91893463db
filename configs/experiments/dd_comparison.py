"""Table 3: gradient matching and dataset distillation; `paper`, `cpu` or `smoke`.

python -m experiments.dd_comparison --output=runs/dd_comparison \
    --config=configs/experiments/dd_comparison.py:cpu
"""

from ml_collections import ConfigDict

from dc_jax.configs.experiments.common import SMOKE, check_size, run_fields


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the experiment as in the paper, for two CPU cores, or tiny."""
    check_size(size, ("paper", "cpu", "smoke"))
    config = ConfigDict()
    # Files of configs/, each with the fields of all runs on it.
    config.datasets = {
        "mnist": {"network": {"name": "LeNet"}},
        "cifar10": {"network": {"name": "AlexCifarNet"}},
    }
    config.ipc = (1, 10)
    # Fields of all runs, of the runs of a method, and of the runs of a dataset and ipc.
    config.run = run_fields({})
    config.method = {}
    # As in the authors' code, which augments CIFAR-10 only here.
    config.special = {
        "cifar10-10": {"evaluation": {"augmentation": "crop_scale_rotate"}}
    }
    if size == "cpu":
        network = {"network": {"name": "LeNet"}}
        config.datasets = {"mnist_5k": network, "fashion_mnist": network}
        config.run = run_fields({"num_experiments": 1, "num_evaluations": 5})
        config.method = {
            # Fewer iterations need larger steps.
            "dd": {"iterations": 2000, "batch_real": 50, "lr_img": 0.02},
            "dc": {"iterations": 100, "batch_real": 64},
            "whole": {"evaluation": {"epochs": 20}},
        }
        config.special = {"mnist_5k-all": {"evaluation": {"epochs": 200}}}
    elif size == "smoke":
        config.datasets = {"digits": {"network": {"name": "MLP"}}}
        config.ipc = (1,)
        config.run = run_fields(SMOKE)
    return config
