"""Other splits of a dataset than its own."""

import dataclasses

import numpy as np

from dc_jax.data.dataset import Dataset


def hold_out(dataset: Dataset, num: int) -> Dataset:
    """Returns a dataset that is tested on images held out of its training split.

    They are drawn once and for all, as many of every class as its share; the test split
    stays unseen, as it should where networks or methods are chosen.

    Args:
      dataset: whose training split is divided.
      num: images to hold out.

    Raises:
      ValueError: a split would have fewer images than classes.
    """
    from sklearn.model_selection import train_test_split  # Few runs need it.

    labels = dataset.train_labels
    if not dataset.num_classes <= num <= len(labels) - dataset.num_classes:
        raise ValueError(
            f"config.dataset.validation must be from {dataset.num_classes} to "
            f"{len(labels) - dataset.num_classes}, for an image of each class on both "
            f"sides, got {num}."
        )
    kept, held = train_test_split(
        np.arange(len(labels)), test_size=num, stratify=labels, random_state=0
    )
    kept, held = np.sort(kept), np.sort(held)
    return dataclasses.replace(
        dataset,
        source=f"{dataset.source}, {num} training images as its test images",
        train_images=dataset.train_images[kept],
        train_labels=labels[kept],
        test_images=dataset.train_images[held],
        test_labels=labels[held],
    )
