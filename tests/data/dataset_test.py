"""Tests of Dataset: its checks, its checksum and the statistics of its channels."""

import dataclasses

import numpy as np
import pytest
from data_helpers import random_pixels

from dc_jax.data import dataset as dataset_module
from dc_jax.data.dataset import Dataset, channel_statistics


def _fields() -> dict:
    return {
        "name": "x",
        "source": "test",
        "train_images": np.zeros((4, 2, 3, 1), np.uint8),
        "train_labels": np.array([0, 1, 2, 0], np.int32),
        "test_images": np.zeros((2, 2, 3, 1), np.uint8),
        "test_labels": np.array([0, 2], np.int32),
        "class_names": ("a", "b", "c"),
        "mean": np.zeros(1, np.float32),
        "std": np.ones(1, np.float32),
    }


def test_dataset_properties():
    dataset = Dataset(**_fields())
    assert dataset.num_classes == 3
    assert dataset.image_shape == (2, 3, 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "train_images",
            np.zeros((4, 2, 3), np.uint8),
            r"shape \[n, H, W, D\].*4, 2, 3",
        ),
        (
            "test_images",
            np.zeros((0, 2, 3, 1), np.uint8),
            "test_images .* without a zero",
        ),
        (
            "train_images",
            np.zeros((4, 2, 3, 1)),
            "must be uint8 or float32, got float64",
        ),
        ("train_images", np.full((4, 2, 3, 1), 2, np.float32), "from 2.0 to 2.0"),
        (
            "train_images",
            np.full((4, 2, 3, 1), np.nan, np.float32),
            r"must be in \[0, 1",
        ),
        ("test_images", np.zeros((2, 3, 3, 1), np.uint8), r"\(3, 3, 1\), must be"),
        ("test_images", np.zeros((2, 2, 3, 1), np.float32), "test_images are float32"),
        (
            "train_labels",
            np.zeros(3, np.int32),
            r"shape \[4\], one label per image, got",
        ),
        (
            "train_labels",
            np.zeros(4, np.int64),
            "train_labels must be int32, got int64",
        ),
        (
            "train_labels",
            np.array([0, 1, 2, 3], np.int32),
            r"in \[0, 3\).* from 0 to 3",
        ),
        ("test_labels", np.array([0, -1], np.int32), "test_labels .* from -1 to 0"),
        (
            "train_labels",
            np.array([0, 0, 2, 0], np.int32),
            r"class 1 \(b\) has no train",
        ),
        ("mean", np.zeros(3, np.float32), r"mean must be float32 of shape \[1\], got"),
        ("mean", np.array([np.inf], np.float32), r"mean must be finite, got \[inf\]"),
        ("std", np.ones(1), "std must be float32 .* got float64"),
        ("std", np.zeros(1, np.float32), r"std must be above zero, got \[0.0\]"),
    ],
)
def test_impossible_datasets_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        Dataset(**_fields() | {field: value})
    assert str(caught.value).startswith("dataset 'x' (test): ")
    assert "\n" not in str(caught.value)


def test_checksum_depends_on_every_array_and_nothing_else():
    dataset = Dataset(**_fields())
    assert len(dataset.checksum()) == 64
    renamed = dataclasses.replace(dataset, name="y", mean=np.ones(1, np.float32))
    assert renamed.checksum() == dataset.checksum()
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(dataset, field).copy()
        changed.flat[-1] = 1
        other = dataclasses.replace(dataset, **{field: changed})
        assert other.checksum() != dataset.checksum(), field


def test_channel_statistics_by_hand():
    images = np.array([[0, 7], [255, 7]], np.uint8).reshape(2, 1, 1, 2)
    mean, std = channel_statistics(images)
    # The second channel is constant: its standard deviation is defined as 1.
    np.testing.assert_allclose(mean, [0.5, 7 / 255], rtol=1e-6)
    np.testing.assert_allclose(std, [0.5, 1.0], rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32
    images = np.array([0.1, 0.1, 0.1], np.float32).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(channel_statistics(images), [[0.1], [1.0]], rtol=1e-6)


def test_channel_statistics_do_not_depend_on_the_chunks(monkeypatch):
    monkeypatch.setattr(dataset_module, "_CHUNK", 3)
    images = random_pixels(0, 10, 4, 5, 3)
    values = images.astype(np.float64) / 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, values.std(axis=(0, 1, 2)), rtol=1e-6)
