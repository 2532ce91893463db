"""cifar10"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on cifar10."""
    config = base.get_config()
    config.dataset.name = "cifar10"
    return config
