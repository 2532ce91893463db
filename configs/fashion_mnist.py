"""FashionMNIST: 60,000 grey pictures of clothes of 28x28 pixels, 10 classes.

  python -m dc_jax.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

The data come from TFDS's folder if they are prepared there, else from Debian's package
dataset-fashion-mnist if that is installed, else TFDS downloads and prepares them.

Expect (the paper's Table 1, test accuracy in percent): 70.5 at 1 image a class, 82.3
at 10, 83.6 at 50. Our own run at 1 image a class, one set: 70.9.

Override with --config.ipc=10. Five independent sets, as in the paper; one takes a fifth
of the time: --config.num_experiments=1.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on FashionMNIST."""
    config = base.get_config()
    config.dataset.name = "fashion_mnist"
    return config
