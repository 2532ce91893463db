"""FashionMNIST in the bytes of 50 images per class: 392,000, the best that we measured.

  python -m dc_jax.main --config=configs/best/fashion_mnist_50.py --workdir=runs/best_50

Feature regression from representative real images, with learned labels (20,000 bytes
more). Networks are trained on the images by the evaluation `strong`.

Expect 88.3 (the paper's `dc`: 83.6). One H200 condensed in eleven minutes, beside seven
other runs. An earlier run of half of the iterations had as much. A CPU would take
hours: there --config.method=dm --config.init=real --config.lr_img=10.0
--config.batch_real=128 --config.iterations=500 has 87.4 after 54 minutes of one core,
beside other work.
"""

from ml_collections import ConfigDict

from dc_jax.configs import fashion_mnist
from dc_jax.configs.best import by_regression


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = by_regression(fashion_mnist.get_config())
    config.ipc = 50
    config.iterations = 16000
    return config
