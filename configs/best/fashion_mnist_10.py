"""FashionMNIST in the bytes of 10 images per class: 78,400, the best that we measured.

  python -m dc_jax.main --config=configs/best/fashion_mnist_10.py --workdir=runs/best_10

Distribution matching of images that hold four smaller ones, which begin as
representative real images. Networks are trained on them by the evaluation `strong`.

Expect 85.6 (the paper's `dc`: 82.3). On a GPU it takes a few minutes, on a CPU hours.
"""

from ml_collections import ConfigDict

from dc_jax.configs.best import fashion_mnist_1


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = fashion_mnist_1.get_config()
    config.ipc = 10
    config.batch_real = 256
    config.iterations = 3378
    return config
