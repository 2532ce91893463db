"""Stored images hold several others, which networks are trained on."""

import jax.numpy as jnp
import numpy as np
import pytest

from dc_jax.base import SyntheticSet, flatten_set
from dc_jax.data.formation import decode, encode
from dc_jax.sets.make import decode_set


def test_parts_are_enlarged_linearly():
    image = np.zeros((1, 4, 4, 1), np.float32)
    image[0, :2, 2:, 0] = [[0, 4], [8, 12]]  # The part at the top right.
    parts = np.asarray(decode(image, 2))[..., 0]
    assert parts.shape == (4, 4, 4)
    # A pixel that is enlarged to two lies between them: at a quarter, at three.
    row = np.array([0, 1, 3, 4])
    np.testing.assert_allclose(parts[1], row + 2 * row[:, None], atol=1e-6)
    np.testing.assert_array_equal(parts[[0, 2, 3]], 0)


def test_every_image_is_encoded_into_a_part_of_its_own():
    images = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    images = np.broadcast_to(images, (8, 6, 4, 3))
    encoded = encode(jnp.asarray(images), 2)
    assert encoded.shape == (2, 6, 4, 3)
    np.testing.assert_allclose(decode(encoded, 2), images, atol=1e-6)


def test_an_image_keeps_every_other_pixel():
    images = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1).repeat(4, axis=0)
    np.testing.assert_array_equal(
        encode(jnp.asarray(images), 2)[0, :2, :2, 0], [[0, 2], [8, 10]]
    )


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_sides_that_the_factor_does_not_divide(factor):
    images = np.ones((factor**2, 7, 5, 1), np.float32)
    encoded = encode(jnp.asarray(images), factor)
    assert encoded.shape == (1, 7, 5, 1)
    parts = np.asarray(decode(encoded, factor))
    assert parts.shape == images.shape
    # Only what is cut off at the end is filled up with 0.
    np.testing.assert_allclose(parts[0], 1, atol=1e-6)
    assert parts[-1].min() < 0.1


def test_a_set_without_its_blank_slots_is_decoded():
    images = np.zeros((2, 2, 4, 4, 1), np.float32)
    images[0, 1], images[1, 0] = 1, 2
    soft_labels = np.zeros((2, 2, 2), np.float32)
    soft_labels[0], soft_labels[1, 0] = [0.75, 0.25], [0.5, 0.5]
    synthetic = SyntheticSet(
        images=images,
        labels=np.array([[0, 0], [1, -1]], np.int32),
        mean=np.zeros(1, np.float32),
        std=np.ones(1, np.float32),
        class_names=("a", "b"),
        soft_labels=soft_labels,
        factor=2,
    )
    decoded = decode_set(synthetic)
    assert decoded.factor == 1
    flat, labels = flatten_set(decoded.images, decoded.labels)
    np.testing.assert_allclose(flat[:, 0, 0, 0], np.repeat([0, 1, 2], 4), atol=1e-6)
    np.testing.assert_array_equal(labels, np.repeat([0, 0, 1], 4))
    flat, _ = flatten_set(decoded.soft_labels, decoded.labels)
    np.testing.assert_array_equal(flat[:, 0], np.repeat([0.75, 0.75, 0.5], 4))
