"""The 8x8 digits that come with scikit-learn: no download, a run takes a minute.

  python -m dc_jax.main --config=configs/digits.py --workdir=runs/digits
  python -m dc_jax.main --config=configs/digits.py --workdir=runs/digits_10 \
      --config.ipc=10

1,437 training and 360 test images of 10 classes. This is not an experiment of the
paper: it makes one set, begins with real images, and uses a ConvNet of one block of 64
channels.

It has 60 iterations, enough for dc and dsa. Give dm 2,000, frepo 5,000 with
--config.lr_img=0.003, and ncfm 1,000 with --config.experts.number=5
--config.experts.epochs=20.

Expect (our runs on two CPU cores): 89.1 % in 18 seconds at 1 image per class, 95.2 % in
70 seconds at 10. The times include the evaluation of 20 networks.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns a small experiment on the digits that come with scikit-learn."""
    config = base.get_config()
    config.dataset.name = "digits"
    config.network.name = "ConvNetW64D1"
    config.iterations = 60
    config.num_experiments = 1
    config.init = "real"
    # The smallest class has 139 training images.
    config.batch_real = 128
    return config
