"""Tests of the synthetic images to begin with, and of blank slots."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import random_dataset

from dc_jax.base import flatten_set, make_labels
from dc_jax.data.store import make_store, normalise
from dc_jax.methods.images import init_images, slot_weights

CLASSES, SHAPE = 3, (4, 4, 1)
DATASET = random_dataset((20, 11, 5), SHAPE)
STORE = make_store(DATASET)
LABELS = np.array([[0, 0, -1], [1, 1, 1], [2, -1, -1]], np.int32)
pytestmark = pytest.mark.usefixtures("quick_compile")


def _init(seed, class_ipc, kind):
    init = functools.partial(init_images, STORE, class_ipc=class_ipc, kind=kind)
    images, offsets = jax.jit(init)(jax.random.key(seed))
    return np.asarray(images), offsets


def test_noise_is_standard_normal():
    images, _ = _init(0, (200,) * CLASSES, "noise")
    assert images.shape == (CLASSES, 200, *SHAPE)
    assert images.dtype == jnp.float32
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05
    other, _ = _init(1, (200,) * CLASSES, "noise")
    assert not np.any(images == other)


def test_real_are_distinct_images_of_the_class():
    images, (offsets,) = _init(0, (5,) * CLASSES, "real")
    for label in range(CLASSES):
        members = DATASET.train_images[DATASET.train_labels == label]
        chosen = offsets[label].tolist()
        assert len(set(chosen)) == 5
        expected = normalise(members[chosen], DATASET.mean, DATASET.std)
        np.testing.assert_allclose(images[label], expected, atol=1e-6)
    other, _ = _init(1, (5,) * CLASSES, "real")
    assert np.any(images != other)


@pytest.mark.parametrize("ipc", [(1, 1, 1), (3, 1, 1), (1, 2, 4)])
def test_no_noise_is_there_twice(ipc):
    """Neither within a class nor in two."""
    images, _ = _init(0, ipc, "noise")
    flat, _ = flatten_set(images, make_labels(ipc))
    pixels = flat.ravel()
    assert len(np.unique(pixels)) == len(pixels)


@pytest.mark.parametrize("kind", ["noise", "real"])
def test_a_class_begins_with_what_it_would_with_its_number_for_all(kind):
    # More than the first two have; the last gets all of its images.
    class_ipc = (25, 11, 5)
    images, _ = _init(0, class_ipc, kind)
    assert images.shape == (CLASSES, 25, *SHAPE)
    for label, num in enumerate(class_ipc):
        alone, _ = _init(0, (num,) * CLASSES, kind)
        np.testing.assert_array_equal(images[label, :num], alone[label])
        assert not images[label, num:].any()
    if kind == "real":
        assert len(np.unique(images[2, :5].reshape(5, -1), axis=0)) == 5


def test_labels_say_which_slots_hold_images():
    labels = make_labels((2, 3, 1))
    np.testing.assert_array_equal(labels, LABELS)
    assert labels.dtype == np.int32
    images = np.arange(9).reshape(3, 3, 1, 1, 1)
    flat, flat_labels = flatten_set(images, LABELS)
    assert flat.ravel().tolist() == [0, 1, 3, 4, 5, 6]
    assert flat_labels.tolist() == [0, 0, 1, 1, 1, 2]
    np.testing.assert_allclose(
        slot_weights(LABELS), [[1.5, 1.5, 0], [1, 1, 1], [3, 0, 0]]
    )
    assert slot_weights(make_labels((2, 2))) is None
