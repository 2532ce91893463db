"""SVHN: 73,257 coloured house numbers of 32x32 pixels, 10 classes.

  python -m dc_jax.main --config=configs/svhn.py --workdir=runs/svhn

TFDS downloads and prepares the data on first use (`pip install -e ".[prepare]"`). It
also downloads the "extra" split of 1.3 GB, which is not used.

Expect (the paper's Table 1, test accuracy in percent): 31.2 at 1 image per class, 76.1
at 10, 82.3 at 50.

Change the images per class with --config.ipc=10. The run makes five independent sets,
as in the paper. --config.num_experiments=1 makes one, in a fifth of the time.
"""

from ml_collections import ConfigDict

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the paper's experiment on SVHN."""
    config = base.get_config()
    config.dataset.name = "svhn"
    return config
