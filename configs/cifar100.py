"""cifar100"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on cifar100."""
    config = base.get_config()
    config.dataset.name = "cifar100"
    return config
