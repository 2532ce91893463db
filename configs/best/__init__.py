"""The best recipes that we measured, by dataset and bytes."""

from ml_collections import ConfigDict


def in_parts(config: ConfigDict, method: str) -> ConfigDict:
    """Returns the config, changed to one set with four parts in each image."""
    config.method = method
    config.formation.factor = 2
    config.init = "kmeans"
    config.num_experiments = 1
    config.evaluation.protocol = "strong"
    return config
