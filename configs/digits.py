"""digits"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns a small experiment on the digits that come with scikit-learn."""
    config = base.get_config()
    config.dataset.name = "digits"
    config.num_experiments = 1
    # The smallest class has 139 training images.
    config.batch_real = 128
    return config
