"""FashionMNIST in the bytes of one image per class: 7,840, the best that we measured.

  python -m dc_jax.main --config=configs/best/fashion_mnist_1.py --workdir=runs/best_1

Distribution matching of images that hold four smaller ones, which begin as
representative real images. Networks are trained on them by the evaluation `strong`.

Expect 79.0 (the paper's `dc`: 70.5). One core of a CPU condenses in about 15 minutes
and evaluates a network in a minute.
"""

from ml_collections import ConfigDict

from dc_jax.configs import fashion_mnist
from dc_jax.configs.best import in_parts


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = in_parts(fashion_mnist.get_config())
    config.batch_real = 64
    config.iterations = 1500
    return config
