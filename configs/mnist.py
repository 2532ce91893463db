"""MNIST: 60,000 grey digits of 28x28 pixels, 10 classes.

  python -m dc_jax.main --config=configs/mnist.py --workdir=runs/mnist

TFDS downloads and prepares the data on first use; or give a folder with the four IDX
files by --config.dataset.path. Evaluation networks train for 1,000 epochs with
augmentation, as in the authors' code.

Expect (the paper's Table 1, test accuracy in percent): 91.7 at 1 image a class, 97.4
at 10, 98.8 at 50.

Override with --config.ipc=10. Five independent sets, as in the paper; one takes a fifth
of the time: --config.num_experiments=1.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on MNIST."""
    config = base.get_config()
    config.dataset.name = "mnist"
    return config
