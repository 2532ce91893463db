"""mnist"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on mnist."""
    config = base.get_config()
    config.dataset.name = "mnist"
    return config
