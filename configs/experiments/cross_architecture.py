"""Table 2: six networks to condense with, and to test with; `paper`, `cpu`, `smoke`.

  python -m experiments.cross_architecture --output=runs/cross_architecture \
      --config=configs/experiments/cross_architecture.py:cpu
"""

from ml_collections import ConfigDict

from experiments.cells import SMOKE, run_fields
from experiments.matrix import CPU, square
from experiments.paper import NETWORKS


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the experiment as in the paper, for two CPU cores, or tiny."""
    config = ConfigDict()
    # File of configs/.
    config.dataset = "mnist"
    # Fields of all runs, and of those that make each set.
    config.run = run_fields({})
    # As in the authors' code: batch norm, and average pooling, where matching needs it;
    # tests replace it by instance norm.
    config.sets = {
        "MLP": {"network": {"name": "MLP"}, "lr_img": 0.01},
        "ConvNet": {"network": {"name": "ConvNet"}},
        "LeNet": {"network": {"name": "LeNet"}},
        "AlexNet": {"network": {"name": "AlexNet"}},
        "VGG11": {"network": {"name": "VGG11BN"}},
        "ResNet18": {"network": {"name": "ResNet18BN_AP"}},
    }
    names = NETWORKS
    if size == "cpu":
        config.dataset = "fashion_mnist"
        config.run = run_fields(CPU | {"num_evaluations": 2, "iterations": 200})
        # As many as the time of each allows.
        config.sets.MLP.iterations = config.sets.LeNet.iterations = 1000
        config.sets.AlexNet.update({"iterations": 50, "batch_real": 32})
        config.sets.VGG11.update({"iterations": 25, "batch_real": 32})
        config.sets.ResNet18.update({"iterations": 10, "batch_real": 32})
    elif size == "smoke":
        names = ("MLP", "ConvNetD1W8")
        config.sets.ConvNetD1W8 = {"network": {"name": "ConvNetD1W8"}}
        config.dataset = "digits"
        config.run = run_fields(SMOKE)
    elif size != "paper":
        raise ValueError(f"there are the sizes paper, cpu and smoke, got {size!r}.")
    config.tables = {"cross_architecture": square({name: name for name in names})}
    return config
