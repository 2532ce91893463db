"""Splits of datasets that do not come with the wanted one."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dc_jax.data.dataset import Dataset
from dc_jax.errors import UserError

_TEST_SHARE = 0.2


def hold_out(dataset: Dataset, num: int) -> Dataset:
    """Returns a dataset whose test images are held out of its training split.

    Every call draws the same images, of each class in proportion to its size. The test
    split stays unseen, as it should while networks or methods are chosen.

    Args:
      dataset: its training split is divided.
      num: images to hold out.

    Raises:
      UserError: a split would have fewer images than classes.
    """
    labels = dataset.train_labels
    counts = np.bincount(labels)
    if counts.min() < 2:
        few = int(counts.argmin())
        raise UserError(
            "config.dataset.validation must be None where a class has a single "
            f"training image, as {dataset.class_names[few]} has, got {num}."
        )
    if not dataset.num_classes <= num <= len(labels) - dataset.num_classes:
        raise UserError(
            f"config.dataset.validation must be from {dataset.num_classes} to "
            f"{len(labels) - dataset.num_classes}, for an image of each class on both "
            f"sides, got {num}."
        )
    kept, held = _divide(labels, num)
    return dataclasses.replace(
        dataset,
        source=f"{dataset.source}, {num} training images as its test images",
        train_images=dataset.train_images[kept],
        train_labels=labels[kept],
        test_images=dataset.train_images[held],
        test_labels=labels[held],
    )


def split_off_tests(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], source: str
) -> dict[str, np.ndarray]:
    """Takes a fifth of every class, always the same, as a test split.

    Args:
      images: `[n, H, W, D]`.
      labels: `[n]`.
      class_names: the C names.
      source: of the images, for errors.

    Returns:
      `train_images`, `train_labels`, `test_images`, `test_labels`.

    Raises:
      UserError: a class has fewer than two images.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < 2:
        few = int(counts.argmin())
        raise UserError(
            f"{source}: class {class_names[few]} has {counts[few]} image(s), must have "
            "at least 2, one of which is tested with; or give a test split."
        )
    kept, held = _divide(
        labels, max(len(class_names), round(_TEST_SHARE * len(labels)))
    )
    return {
        "train_images": images[kept],
        "train_labels": labels[kept],
        "test_images": images[held],
        "test_labels": labels[held],
    }


def _divide(labels: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted indices of the images to keep and of `num` to hold out."""
    from sklearn.model_selection import (
        train_test_split,
    )  # Slow to import.

    kept, held = train_test_split(
        np.arange(len(labels)), test_size=num, stratify=labels, random_state=0
    )
    return np.sort(kept), np.sort(held)
