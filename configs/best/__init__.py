"""The best recipes that we measured, by dataset and bytes."""

from ml_collections import ConfigDict


def one_set(config: ConfigDict, method: str) -> ConfigDict:
    """Returns the config, changed to one set by a method, evaluated by `strong`."""
    config.method = method
    config.num_experiments = 1
    config.evaluation.protocol = "strong"
    return config


def in_parts(config: ConfigDict, method: str) -> ConfigDict:
    """Returns the config, changed to one set with four parts in each image."""
    config = one_set(config, method)
    config.formation.factor = 2
    config.init = "kmeans"
    return config


def by_regression(config: ConfigDict) -> ConfigDict:
    """Returns the config, changed to `frepo` of parts by a small network."""
    config = in_parts(config, "frepo")
    config.network.name = "ConvNetW32D2"
    config.evaluation.network = "ConvNet"
    config.lr_img = 0.003
    return config


def by_matching(config: ConfigDict) -> ConfigDict:
    """Returns the config, changed to `dm` of 50 images per class."""
    config = one_set(config, "dm")
    config.ipc = 50
    config.lr_img = 10.0
    config.batch_real = 128
    config.iterations = 500
    return config
