"""Tests of IDX files: tiny ones, damaged ones, and the real FashionMNIST."""

import numpy as np
import pytest
from data_helpers import (
    NUM_TEST,
    NUM_TRAIN,
    cycling_labels,
    idx_bytes,
    random_pixels,
    write_idx,
)

from dc_jax.data import idx
from dc_jax.data.dataset import channel_statistics
from dc_jax.data.facts import find_facts
from dc_jax.data.sources import load_dataset


@pytest.mark.parametrize("gzipped", [False, True])
def test_idx_files_come_back_exactly(tmp_path, gzipped):
    write_idx(tmp_path, gzipped=gzipped)
    dataset = load_dataset("mine", str(tmp_path))
    assert dataset.source == f"IDX files in {tmp_path}"
    assert dataset.train_images.dtype == np.uint8
    for split, num in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        images = getattr(dataset, f"{split}_images")
        np.testing.assert_array_equal(images, random_pixels(num, num, 5, 5)[..., None])
        np.testing.assert_array_equal(
            getattr(dataset, f"{split}_labels"), cycling_labels(num)
        )
    assert dataset.class_names == tuple("0123456789")
    expected = channel_statistics(dataset.train_images)
    np.testing.assert_array_equal((dataset.mean, dataset.std), expected)


def test_plain_idx_file_is_preferred_to_its_gzipped_twin(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"not read")
    load_dataset("mine", str(tmp_path))


def test_name_of_idx_files_gives_class_names_and_published_statistics(tmp_path):
    write_idx(tmp_path)
    fashion = load_dataset("fashion_mnist", str(tmp_path))
    assert fashion.class_names[0] == "T-shirt/top"
    assert fashion.class_names[9] == "Ankle boot"
    np.testing.assert_allclose((fashion.mean[0], fashion.std[0]), (0.2861, 0.3530))
    mnist = load_dataset("mnist", str(tmp_path))
    assert mnist.class_names == tuple("0123456789")
    np.testing.assert_allclose((mnist.mean[0], mnist.std[0]), (0.1307, 0.3081))
    # Published for three channels, the files have one.
    svhn = load_dataset("svhn", str(tmp_path))
    assert svhn.name == "svhn_cropped"
    np.testing.assert_array_equal(svhn.mean, channel_statistics(svhn.train_images)[0])


def _flip_magic(data: bytes) -> bytes:
    return b"\x01" + data[1:]


def _declare_floats(data: bytes) -> bytes:
    return data[:2] + b"\x0d" + data[3:]


@pytest.mark.parametrize(
    ("stem", "damage", "message"),
    [
        ("train-images-idx3-ubyte", _flip_magic, "starts with 0x01000803, must be 0x0"),
        ("train-images-idx3-ubyte", _declare_floats, "starts with 0x00000d03"),
        ("t10k-labels-idx1-ubyte", lambda data: b"", r"starts with 0x\(nothing\)"),
        ("t10k-images-idx3-ubyte", lambda data: data[:10], "header alone needs 16"),
        ("train-images-idx3-ubyte", lambda data: data[:-1], "515 bytes, must be 516"),
        ("train-labels-idx1-ubyte", lambda data: data + b"\0", "29 bytes, must be 28"),
    ],
)
def test_damaged_idx_file_is_named(tmp_path, stem, damage, message):
    write_idx(tmp_path)
    path = tmp_path / stem
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset("mine", str(tmp_path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: b"xx" + data[2:],
        lambda data: data[:40] + bytes(20) + data[60:],
    ],
)
def test_damaged_gzip_file_is_named(tmp_path, damage):
    write_idx(tmp_path, gzipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="not a sound gzip file") as caught:
        load_dataset("mine", str(tmp_path))
    assert str(path) in str(caught.value)


def test_missing_idx_file_is_named(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte is missing"):
        load_dataset("mnist", str(tmp_path))


def test_idx_labels_must_be_as_many_as_images(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(cycling_labels(6)))
    with pytest.raises(ValueError, match=r"test_labels must have shape \[7\].*\[6\]"):
        load_dataset("mnist", str(tmp_path))


def test_idx_files_without_images_are_refused(tmp_path):
    write_idx(tmp_path)
    for kind, array in (
        ("images-idx3", random_pixels(0, 0, 5, 5)),
        ("labels-idx1", []),
    ):
        path = tmp_path / f"train-{kind}-ubyte"
        path.write_bytes(idx_bytes(np.asarray(array)))
    with pytest.raises(ValueError, match=r"shape \[n, H, W, D\] without a zero"):
        load_dataset("mnist", str(tmp_path))


DEBIAN = find_facts("fashion_mnist").idx_folder


@pytest.mark.skipif(
    idx.find_idx_files(DEBIAN) is None,
    reason="dataset-fashion-mnist is not installed",
)
def test_debian_fashion_mnist_is_complete():
    fashion = load_dataset("fashion_mnist", str(DEBIAN))
    assert fashion.train_images.shape == (60000, 28, 28, 1)
    assert fashion.test_images.shape == (10000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(fashion.train_labels), [6000] * 10)
    # The published statistics are those of the data, to four digits.
    measured = channel_statistics(fashion.train_images)
    np.testing.assert_allclose((fashion.mean, fashion.std), measured, atol=1e-4)
