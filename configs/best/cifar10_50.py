"""CIFAR-10 in the bytes of 50 images per class: 1,536,000, the best that we measured.

  python -m dc_jax.main --config=configs/best/cifar10_50.py --workdir=runs/best_cifar_50

Distribution matching. Networks are trained on the images by the evaluation `strong`.

Expect 60.2, measured on a JPEG copy (the paper's `dc`: 53.9). One core of a CPU
condenses in 30 minutes and evaluates a network in nine.
"""

from ml_collections import ConfigDict

from dc_jax.configs import cifar10
from dc_jax.configs.best import by_matching


def get_config() -> ConfigDict:
    """Returns the recipe."""
    return by_matching(cifar10.get_config())
