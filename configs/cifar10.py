"""CIFAR-10: 50,000 coloured images of 32x32 pixels, 10 classes.

  python -m dc_jax.main --config=configs/cifar10.py --workdir=runs/cifar10

TFDS downloads and prepares the data on first use (`pip install -e ".[prepare]"`).

Expect (the paper's Table 1, test accuracy in percent): 28.3 at 1 image per class, 44.9
at 10, 53.9 at 50.

Change the images per class with --config.ipc=10. The run makes five independent sets,
as in the paper. --config.num_experiments=1 makes one, in a fifth of the time.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on CIFAR-10."""
    config = base.get_config()
    config.dataset.name = "cifar10"
    return config
