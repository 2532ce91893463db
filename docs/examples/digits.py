"""The real digits that the examples test on: those of `dataset.name=digits`."""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def load_tests(mean, std):
    """Returns images `[n, 8, 8, 1]`, normalised as the condensed ones, and labels.

    For a set of whitened images (`dataset.zca`) whiten them, too: see docs/formats.md.
    """
    images, labels = load_digits(return_X_y=True)
    _, images, _, labels = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return ((images.reshape(-1, 8, 8, 1) / 16 - mean) / std).astype("float32"), labels
