"""Table 2: six networks condense and are tested; `paper`, `cpu` or `smoke`.

  python -m experiments.cross_architecture --output=runs/cross_architecture \
      --config=configs/experiments/cross_architecture.py:cpu
"""

from ml_collections import ConfigDict

from dc_jax.configs.experiments.common import (
    CPU,
    NETWORKS,
    SMOKE,
    check_size,
    condensing,
    run_fields,
    square,
)


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the experiment as in the paper, for two CPU cores, or tiny."""
    check_size(size, ("paper", "cpu", "smoke"))
    config = ConfigDict()
    # File of configs/.
    config.dataset = "mnist"
    # Fields of all runs, and of the runs that make each set.
    config.run = run_fields({})
    names = NETWORKS
    config.sets = {name: condensing(name) for name in names}
    if size == "cpu":
        config.dataset = "fashion_mnist"
        config.run = run_fields(CPU | {"num_evaluations": 2, "iterations": 200})
        # As many iterations as the time of each network allows.
        config.sets.MLP.iterations = config.sets.LeNet.iterations = 1000
        config.sets.AlexNet.update({"iterations": 50, "batch_real": 32})
        config.sets.VGG11.update({"iterations": 25, "batch_real": 32})
        config.sets.ResNet18.update({"iterations": 10, "batch_real": 32})
    elif size == "smoke":
        names = ("MLP", "ConvNetD1W8")
        config.sets = {name: condensing(name) for name in names}
        config.dataset = "digits"
        config.run = run_fields(SMOKE)
    config.tables = {"cross_architecture": square({name: name for name in names})}
    return config
