"""Table 4: the search of 720 ConvNets; `paper`, `cpu` (48 of them) or `smoke`.

  python -m experiments.architecture_search --output=runs/search \
      --config=configs/experiments/architecture_search.py:cpu
"""

from ml_collections import ConfigDict

from dc_jax.configs.experiments.common import check_size, run_fields


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the experiment as in the paper, for two CPU cores, or tiny."""
    check_size(size, ("paper", "cpu", "smoke"))
    config = ConfigDict()
    # File of configs/.
    config.dataset = "cifar10"
    # Number of held-out training images, which rank the networks. This number, the five
    # trainings per network and the iterations of dc are from memory, not verified.
    config.validation = 5000
    # Suffixes of the ConvNets.
    config.space = (
        ("W32", "W64", "W128", "W256"),
        ("D1", "D2", "D3", "D4"),
        ("AS", "AR", "AL"),
        ("NN", "BN", "LN", "IN", "GN"),
        ("NP", "MP", "AP"),
    )
    # Fields of all runs; then of the runs that make the sets, by the names of the
    # proxies; that train networks on the sets; that train them on the whole training
    # set without the held-out images; and that train the best on all training images.
    config.run = run_fields({"ipc": 10, "num_experiments": 1})
    config.proxies = {
        "random": {"method": "random"},
        "herding": {"method": "herding"},
        "dc": {"method": "dc", "iterations": 500},
    }
    # Training runs one epoch more.
    config.on_sets = {"num_evaluations": 5, "evaluation": {"epochs": 99}}
    config.on_whole = {"num_evaluations": 5, "evaluation": {"epochs": 99}}
    config.on_everything = {"num_evaluations": 5, "evaluation": {"epochs": 99}}
    # Early stopping trains for equally many steps as on the sets, each with images that
    # it has not seen before. The accuracy of longer training on these does not matter.
    config.early = {"method": "random", "ipc": 1000, "evaluation": {"epochs": 0}}
    config.on_early = {
        "num_evaluations": 5,
        "evaluation": {"epochs": 0, "batch_size": 100},
    }
    if size == "cpu":
        config.dataset = "fashion_mnist"
        config.space = (
            ("W16", "W32"),
            ("D1", "D2"),
            ("AS", "AR", "AL"),
            ("NN", "IN"),
            ("MP", "AP"),
        )
        config.run.network.name = "ConvNetW32D2"
        config.proxies.herding.coreset = {"epochs": 3}
        # From noise, so few iterations would suit only networks with average pooling.
        config.proxies.dc = {
            "method": "dc",
            "init": "real",
            "iterations": 200,
            # A fifth of the steps, each with five times the learning rate.
            "inner_loop": 10,
            "lr_net": 0.05,
            "batch_real": 64,
        }
        config.on_sets.num_evaluations = config.on_early.num_evaluations = 2
        config.on_whole = {"num_evaluations": 1, "evaluation": {"epochs": 3}}
        config.on_everything = {"num_evaluations": 1, "evaluation": {"epochs": 4}}
    elif size == "smoke":
        config.dataset = "digits"
        config.validation = 200
        config.space = (
            ("W8",),
            ("D1",),
            ("AS", "AR"),
            ("NN",),
            ("AP",),
        )
        config.run = run_fields(
            {"ipc": 1, "num_experiments": 1, "network": {"name": "MLP"}}
        )
        config.proxies = {"random": {"method": "random"}}
        config.early.ipc = 20
        config.on_early.num_evaluations = 1
        fields = {"num_evaluations": 1, "evaluation": {"epochs": 2}}
        config.on_sets = config.on_everything = config.on_whole = fields
    return config
