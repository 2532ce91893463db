"""The best recipes that we measured, by dataset and bytes."""

from ml_collections import ConfigDict


def one_set(config: ConfigDict, method: str) -> ConfigDict:
    """Returns the config, changed to one set by a method, evaluated by `strong`."""
    config.method = method
    config.num_experiments = 1
    config.evaluation.protocol = "strong"
    return config


def by_regression(config: ConfigDict) -> ConfigDict:
    """Returns the config, changed to `frepo` from representative real images."""
    config = one_set(config, "frepo")
    config.init = "kmeans"
    config.lr_img = 0.003
    return config


def by_small_network(config: ConfigDict) -> ConfigDict:
    """Returns the config, changed to `frepo` of parts by a small network."""
    config = by_regression(config)
    config.formation.factor = 2
    config.network.name = "ConvNetW32D2"
    config.evaluation.network = "ConvNet"
    return config
