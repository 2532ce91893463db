"""SVHN: 73,257 coloured house numbers of 32x32 pixels, 10 classes.

  python -m dc_jax.main --config=configs/svhn.py --workdir=runs/svhn

TFDS downloads and prepares the data on first use (its "extra" split of 1.3 GB too,
which is not used).

Expect (the paper's Table 1, test accuracy in percent): 31.2 at 1 image a class, 76.1
at 10, 82.3 at 50.

Override with --config.ipc=10. Five independent sets, as in the paper; one takes a fifth
of the time: --config.num_experiments=1.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on SVHN."""
    config = base.get_config()
    config.dataset.name = "svhn"
    return config
