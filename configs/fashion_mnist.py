"""fashion_mnist"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on fashion_mnist."""
    config = base.get_config()
    config.dataset.name = "fashion_mnist"
    return config
