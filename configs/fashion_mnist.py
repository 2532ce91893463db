"""FashionMNIST: 60,000 grey pictures of clothes of 28x28 pixels, 10 classes.

  python -m dc_jax.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

The run takes the data from TFDS's folder if they are prepared there, else from Debian's
package dataset-fashion-mnist if it is installed. Otherwise TFDS downloads and prepares
them (`pip install -e ".[prepare]"`).

Expect (the paper's Table 1, test accuracy in percent): 70.5 at 1 image per class, 82.3
at 10, 83.6 at 50. Our run at 1 image per class, one set: 70.9.

Change the images per class with --config.ipc=10. The run makes five independent sets,
as in the paper. --config.num_experiments=1 makes one, in a fifth of the time.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on FashionMNIST."""
    config = base.get_config()
    config.dataset.name = "fashion_mnist"
    return config
