"""CIFAR-100: 50,000 coloured images of 32x32 pixels, 100 classes.

  python -m dc_jax.main --config=configs/cifar100.py --workdir=runs/cifar100

TFDS downloads and prepares the data on first use (`pip install -e ".[prepare]"`).

Expect (published for the paper's method, test accuracy in percent): 12.8 at 1 image per
class, 25.2 at 10.

Change the images per class with --config.ipc=10. The run makes five independent sets,
as in the paper. --config.num_experiments=1 makes one, in a fifth of the time.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on CIFAR-100."""
    config = base.get_config()
    config.dataset.name = "cifar100"
    return config
