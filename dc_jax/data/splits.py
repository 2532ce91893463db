"""Splits: how files name them, and those that a dataset does not come with."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from dc_jax.data.dataset import NO_GAPS, Dataset
from dc_jax.errors import UserError, short_name

# Images that are moved at once.
_CHUNK = 1024
# What the splits are called, in any case; the first one that is there counts.
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")
# The split to test on where `test` has no labels, as in a competition.
_VALIDATION_NAMES = TEST_NAMES[2:]


def name_splits(
    names: Iterable[str], where: str, *, with_validation: bool = False
) -> dict[str, str]:
    """Returns which of the names are those of the splits "train" and "test".

    Either can be missing. `where` is for errors. On demand there is "validation" too,
    if the name of "test" is another one.

    Raises:
      UserError: names differ in nothing but their case.
    """
    names = sorted(names)
    splits = {}
    kinds = {"train": TRAIN_NAMES, "test": TEST_NAMES}
    kinds |= {"validation": _VALIDATION_NAMES} if with_validation else {}
    for split, wanted in kinds.items():
        found = [[name for name in names if name.lower() == one] for one in wanted]
        found = next(filter(None, found), [])
        if len(found) > 1:
            raise UserError(f"{where} has {' and '.join(found)}: keep one of them.")
        if found and found[0] not in splits.values():
            splits[split] = found[0]
    return splits


def hold_out(dataset: Dataset, num: int, *, in_place: bool = False) -> Dataset:
    """Returns a dataset whose test images are `num` of its training images.

    Every call draws the same images, of each class in proportion to its size. The test
    split stays unseen, as it should while networks or methods are chosen. With
    `in_place` the given dataset is not to be used any more.

    Raises:
      UserError: a split would have fewer images than classes.
    """
    labels = dataset.train_labels
    counts = np.bincount(labels)
    if counts.min() < 2:
        raise UserError(
            "config.dataset.validation must be None where a class has a single "
            "training image, as "
            f"{short_name(dataset.class_names[counts.argmin()])} has, got {num}."
        )
    least, most = dataset.num_classes, len(labels) - dataset.num_classes
    if not least <= num <= most:
        raise UserError(
            f"config.dataset.validation must be from {least} to {most}, for an image "
            f"of each class on both sides, got {num}."
        )
    source = f"{dataset.source}, {num} training images as its test images"
    arrays = _divide(dataset.train_images, labels, num, in_place)
    return dataclasses.replace(dataset, source=source, **arrays)


def split_off_tests(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], source: str
) -> dict[str, np.ndarray]:
    """Takes a fifth of every class, always the same, as a test split.

    The given images are not to be used any more: their memory is.

    Returns `train_images`, `train_labels`, `test_images`, `test_labels`.

    Raises:
      UserError: a class has fewer than two images.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < 2:
        name, num = short_name(class_names[counts.argmin()]), counts.min()
        hint = "or give a test split" if num else NO_GAPS
        raise UserError(
            f"{source}: class {name} has {num} image(s), must have at least 2, one of "
            f"which is tested with; {hint}."
        )
    return _divide(
        images, labels, max(len(class_names), round(0.2 * len(labels))), True
    )


def _divide(
    images: np.ndarray, labels: np.ndarray, num: int, in_place: bool
) -> dict[str, np.ndarray]:
    """Returns the arrays of both splits, in order, with `num` images to test.

    In place, the training images stay in the memory of all images.
    """
    from sklearn.model_selection import train_test_split  # Slow to import.

    kept, held = train_test_split(
        np.arange(len(labels)), test_size=num, stratify=labels, random_state=0
    )
    kept, held = np.sort(kept), np.sort(held)
    test_images = images[held]
    if in_place and images.flags.writeable:
        train_images = _move_to_front(images, kept)
    else:
        train_images = images[kept]
    return {
        "train_images": train_images,
        "train_labels": labels[kept],
        "test_images": test_images,
        "test_labels": labels[held],
    }


def _move_to_front(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns the images of indices, which are sorted, at the front of the array."""
    for start in range(0, len(indices), _CHUNK):
        some = indices[start : start + _CHUNK]
        # What is overwritten has been moved already.
        images[start : start + len(some)] = images[some]
    return images[: len(indices)]
