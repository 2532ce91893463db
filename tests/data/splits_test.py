"""Images held out of the training split."""

import dataclasses

import numpy as np
import pytest
from toy import random_dataset

from dc_jax.data import splits
from dc_jax.data.splits import hold_out

DATASET = random_dataset((40, 20, 4), (4, 4, 1))


def _rows(images):
    return {image.tobytes() for image in images}


def test_every_class_gives_its_share_and_no_image_is_on_both_sides():
    divided = hold_out(DATASET, 16)
    assert np.bincount(divided.test_labels).tolist() == [10, 5, 1]
    assert np.bincount(divided.train_labels).tolist() == [30, 15, 3]
    train, held = _rows(divided.train_images), _rows(divided.test_images)
    assert not train & held
    assert train | held == _rows(DATASET.train_images)
    # Images keep their labels.
    for images, labels in (
        (divided.train_images, divided.train_labels),
        (divided.test_images, divided.test_labels),
    ):
        for image, label in zip(images, labels, strict=True):
            (place,) = np.flatnonzero((DATASET.train_images == image).all((1, 2, 3)))
            assert DATASET.train_labels[place] == label


def test_it_is_the_same_each_time_and_another_dataset():
    first, second = hold_out(DATASET, 16), hold_out(DATASET, 16)
    assert first.checksum() == second.checksum() != DATASET.checksum()
    assert "16 training images" in first.source


@pytest.mark.parametrize("num", [2, 62])
def test_too_few_images_on_a_side(num):
    with pytest.raises(ValueError, match=r"dataset.validation must be from 3 to 61"):
        hold_out(DATASET, num)


def test_in_place_gives_the_same_in_the_memory_of_the_dataset(monkeypatch):
    monkeypatch.setattr(splits, "_CHUNK", 7)
    expected = hold_out(DATASET, 16)
    images = DATASET.train_images.copy()
    mine = dataclasses.replace(DATASET, train_images=images)
    divided = hold_out(mine, 16, in_place=True)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(divided, name), getattr(expected, name))
    assert np.shares_memory(divided.train_images, images)


def test_images_that_cannot_be_written_are_copied():
    images = DATASET.train_images.copy()
    images.flags.writeable = False
    mine = dataclasses.replace(DATASET, train_images=images)
    divided = hold_out(mine, 16, in_place=True)
    assert not np.shares_memory(divided.train_images, images)
