"""Sequences of tasks: their classes, their images, and where these come from."""

import bz2

import numpy as np
import pytest
from toy import random_dataset, whitened

from experiments.continual_learning import tasks

DATASET = random_dataset((8, 6, 4, 5, 7), (4, 4, 1))


def test_classes_are_split_in_an_order_that_is_drawn():
    split = tasks.class_tasks(DATASET, 2, np.random.default_rng(1))
    assert [len(task.classes) for task in split] == [3, 2]
    assert sorted(np.concatenate([task.classes for task in split])) == [*range(5)]
    for dataset, classes in split:
        assert dataset.class_names == tuple("abcde"[label] for label in classes)
        named = classes[dataset.train_labels]
        kept = np.isin(DATASET.train_labels, classes)
        np.testing.assert_array_equal(named, DATASET.train_labels[kept])
        np.testing.assert_array_equal(dataset.train_images, DATASET.train_images[kept])
        assert len(dataset.test_labels) == kept.sum()
    orders = {
        tuple(np.concatenate([task.classes for task in split]).tolist())
        for seed in range(5)
        for split in [tasks.class_tasks(DATASET, 2, np.random.default_rng(seed))]
    }
    assert len(orders) > 1
    with pytest.raises(ValueError, match="class_steps must be from 1 to 5.*got 6"):
        tasks.class_tasks(DATASET, 6, np.random.default_rng(1))


def test_datasets_get_one_normalisation():
    other = random_dataset((3, 3, 3, 3, 3), (4, 4, 1))
    one = whitened(DATASET)
    first, second = tasks.dataset_tasks([one, other])
    np.testing.assert_array_equal(second.dataset.mean, DATASET.mean)
    assert second.dataset.whitening is first.dataset.whitening is one.whitening
    np.testing.assert_array_equal(second.dataset.train_images, other.train_images)
    np.testing.assert_array_equal(first.classes, np.arange(5))
    with pytest.raises(ValueError, match="equally many classes each, got 5 .* and 2"):
        tasks.dataset_tasks([DATASET, random_dataset((3, 3), (4, 4, 1))])


def test_test_images_are_limited_to_the_same_ones():
    limited = tasks.limit_test(DATASET, 7)
    assert len(limited.test_images) == len(limited.test_labels) == 7
    assert limited.checksum() == tasks.limit_test(DATASET, 7).checksum()
    for image, label in zip(limited.test_images, limited.test_labels, strict=True):
        (place,) = np.flatnonzero((DATASET.test_images == image).all((1, 2, 3)))
        assert DATASET.test_labels[place] == label
    assert tasks.limit_test(DATASET, 30) is DATASET


def test_images_are_brought_to_one_shape():
    digits = tasks.load("digits")
    assert digits.image_shape == (8, 8, 1)
    large = tasks.load("digits", image_shape=(16, 24, 3))
    assert large.train_images.shape == (1437, 16, 24, 3)
    assert large.train_images.dtype == large.test_images.dtype == np.uint8
    np.testing.assert_array_equal(large.train_labels, digits.train_labels)
    for channel in (1, 2):
        np.testing.assert_array_equal(
            large.train_images[..., channel], large.train_images[..., 0]
        )
    # Bilinear: a pixel of twice the size is 3/4 of one and 1/4 of the next.
    twice = tasks.load("digits", image_shape=(8, 16, 1)).train_images[0, :, :, 0]
    row = 255 * digits.train_images[0, :, :, 0]
    np.testing.assert_allclose(twice[:, 1], 0.75 * row[:, 0] + 0.25 * row[:, 1], atol=1)
    np.testing.assert_allclose(twice[:, 2], 0.25 * row[:, 0] + 0.75 * row[:, 1], atol=1)
    np.testing.assert_allclose(large.mean, digits.mean[0].repeat(3), atol=2e-3)


def test_digits_are_inverted_and_rotated():
    digits = tasks.load("digits", image_shape=(16, 16, 1))
    inverted = tasks.load("digits:inverted", image_shape=(16, 16, 1))
    rotated = tasks.load("digits:rotated", image_shape=(16, 16, 1))
    np.testing.assert_array_equal(inverted.test_images, 255 - digits.test_images)
    np.testing.assert_allclose(inverted.mean, 1 - digits.mean, atol=1e-6)
    # The first column becomes the last row.
    np.testing.assert_array_equal(
        rotated.train_images[:, -1], digits.train_images[:, :, 0]
    )
    assert inverted.name == "digits:inverted"


def test_usps_is_read_from_files(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 256))
    labels = np.arange(40) % 10 + 1
    lines = []
    for label, image in zip(labels, pixels, strict=True):
        values = (f"{i + 1}:{v / 127.5 - 1:.6f}" for i, v in enumerate(image))
        lines.append(f"{label} {' '.join(values)}\n")
    (tmp_path / "usps.bz2").write_bytes(bz2.compress("".join(lines[:30]).encode()))
    with pytest.raises(FileNotFoundError, match=r"config\.usps .*there is no .*t\.bz2"):
        tasks.load("usps", usps=str(tmp_path))
    (tmp_path / "usps.t.bz2").write_bytes(b"BZh9 no")
    with pytest.raises(ValueError, match=r"usps\.t\.bz2 cannot be read"):
        tasks.load("usps", usps=str(tmp_path))
    (tmp_path / "usps.t.bz2").write_bytes(bz2.compress("".join(lines[30:]).encode()))
    dataset = tasks.load("usps", usps=str(tmp_path))
    np.testing.assert_array_equal(
        dataset.train_images, pixels[:30].reshape(30, 16, 16, 1)
    )
    np.testing.assert_array_equal(dataset.test_labels, np.arange(10))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("digits:blue", None, "inverted or rotated, got 'digits:blue'"),
        ("digits:rotated", (8, 9, 1), "must be square .*digits:rotated, got 8x9x1"),
        ("usps", None, "config.usps must be a folder .*got None"),
    ],
)
def test_impossible_tasks_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        tasks.load(name, image_shape=shape)


def test_colours_are_not_dropped():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="must have the 3 channels of svhn, got 1"):
        tasks._reshape(images, (4, 4, 1), "svhn")
