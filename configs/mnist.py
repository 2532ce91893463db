"""MNIST: 60,000 grey digits of 28x28 pixels, 10 classes.

  python -m dc_jax.main --config=configs/mnist.py --workdir=runs/mnist

TFDS downloads and prepares the data on first use (`pip install -e ".[prepare]"`). To
use a folder with the four IDX files instead, set --config.dataset.path. Evaluation
networks train for 1,000 epochs with augmentation, as in the authors' code.

Expect (the paper's Table 1, test accuracy in percent): 91.7 at 1 image per class, 97.4
at 10, 98.8 at 50.

Change the images per class with --config.ipc=10. The run makes five independent sets,
as in the paper. --config.num_experiments=1 makes one, in a fifth of the time.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on MNIST."""
    config = base.get_config()
    config.dataset.name = "mnist"
    return config
