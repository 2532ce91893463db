"""svhn"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on svhn."""
    config = base.get_config()
    config.dataset.name = "svhn"
    return config
