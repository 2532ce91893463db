"""What is known of datasets by name, against a table written by hand."""

import numpy as np
import pytest

from dc_jax.data import facts
from dc_jax.data.facts import find_facts
from dc_jax.data.sources import published_facts

DIGITS = tuple("0123456789")

# Name given: canonical name, flippable, augmentation, first rate of `dd`.
TABLE = {
    "digits": ("digits", False, "none", 0.02),
    "mnist": ("mnist", False, "crop_scale_rotate", 0.02),
    "mnist_5k": ("mnist_5k", False, "crop_scale_rotate", 0.02),
    "usps": ("usps", False, "none", 0.02),
    "svhn": ("svhn_cropped", False, "none", 0.02),
    "svhn_cropped": ("svhn_cropped", False, "none", 0.02),
    "fashion_mnist": ("fashion_mnist", True, "none", 0.02),
    "cifar10": ("cifar10", True, "none", 0.001),
    "cifar100": ("cifar100", True, "none", 0.02),
    # Not in the table: the user's own data, others of TFDS, a version, other letters.
    "folder": ("folder", True, "none", 0.02),
    "kmnist": ("kmnist", True, "none", 0.02),
    "mnist:3.0.1": ("mnist:3.0.1", True, "none", 0.02),
    "MNIST": ("MNIST", True, "none", 0.02),
}


@pytest.mark.parametrize("name", TABLE)
def test_defaults_follow_the_name(name):
    found = find_facts(name)
    assert TABLE[name] == (
        found.name,
        found.is_flippable,
        found.augmentation,
        found.distillation_rate,
    )


def test_the_table_is_complete():
    names = {name for entry in facts.DATASETS for name in (entry.name, *entry.aliases)}
    of_the_hub = {name for name in names if name.startswith("hf:")}
    assert names - of_the_hub <= set(TABLE)
    assert find_facts("hf:ylecun/mnist") is find_facts("mnist")


@pytest.mark.parametrize(
    ("name", "mean", "std", "num_classes"),
    [
        ("mnist", [0.1307], [0.3081], 10),
        ("fashion_mnist", [0.2861], [0.3530], 10),
        ("svhn", [0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970], 10),
        ("svhn_cropped", [0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970], 10),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010], 10),
        ("cifar100", [0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762], 100),
    ],
)
def test_published_statistics_are_the_authors(name, mean, std, num_classes):
    found_mean, found_std, class_names = published_facts(name)
    assert found_mean.dtype == found_std.dtype == np.float32
    np.testing.assert_array_equal(found_mean, np.array(mean, np.float32))
    np.testing.assert_array_equal(found_std, np.array(std, np.float32))
    assert len(class_names) == num_classes
    if name != "fashion_mnist":
        assert class_names[:10] == DIGITS


@pytest.mark.parametrize("name", ["digits", "mnist_5k", "usps", "imagenet"])
def test_other_datasets_have_no_published_statistics(name):
    known = "mnist, fashion_mnist, svhn_cropped, cifar10, cifar100"
    with pytest.raises(ValueError, match=f"must be one of {known}, got '{name}'"):
        published_facts(name)
