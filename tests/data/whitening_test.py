"""Whitening: by hand, against square roots of matrices, and in stores."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from run_helpers import tiny_config
from toy import random_dataset, whitened

from dc_jax.data import whitening as module
from dc_jax.data.store import (
    make_store,
    normalise,
    sample_classes,
    store_specs,
    to_inputs,
)
from dc_jax.data.stream import HostStore
from dc_jax.data.whitening import fit_whitening
from dc_jax.devices.layout import make_layout
from dc_jax.run.setup import load, with_whitening

# Channels of different spread, and 27 images of 24 values.
DATASET = random_dataset((9, 8, 10), (2, 4, 3), mean=(0.5, 0.4, 0.6), std=(0.3, 0.2, 1))


def _white(images):
    """Images of two pixels, of which (0.5, 0.5) is normalised to (0, 0)."""
    return np.float32(images).reshape(-1, 1, 2, 1)


def test_two_pixels_by_hand():
    """Normalised images are (1/2, -1/2) + (2, 2), - (2, 2), + (1, -1), - (1, -1).

    The covariance has the eigenvalues 4 for (1, 1) and 1 for (1, -1). A tenth of their
    mean, 1/4, is added: they are divided by sqrt(17/4) and sqrt(5/4).
    """
    images = _white([[1.0, 0.8], [0.2, 0.0], [0.8, 0.2], [0.4, 0.6]])
    mean, std = np.float32([0.5]), np.float32([0.2])
    found = fit_whitening(images, mean, std)
    np.testing.assert_allclose(found.center.ravel(), [0.5, -0.5], atol=1e-6)
    a, b = 2 / 17**0.5, 2 / 5**0.5
    expected = [[(a + b) / 2, (a - b) / 2], [(a - b) / 2, (a + b) / 2]]
    np.testing.assert_allclose(found.matrix, expected, atol=1e-6)
    white = np.asarray(to_inputs(images, mean, std, found)).reshape(4, 2)
    expected = [[2 * a, 2 * a], [-2 * a, -2 * a], [b, -b], [-b, b]]
    np.testing.assert_allclose(white, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_it_is_the_inverse_root_of_the_covariance(monkeypatch, dtype):
    monkeypatch.setattr(module, "_CHUNK", 10)  # The last has fewer.
    images = DATASET.train_images
    images = images if dtype == np.uint8 else images / np.float32(255)
    found = fit_whitening(images, DATASET.mean, DATASET.std)
    normalised = np.asarray(normalise(images, DATASET.mean, DATASET.std), np.float64)
    covariance = np.cov(normalised.reshape(27, 24), rowvar=False, bias=True)
    regular = covariance + 0.1 * np.trace(covariance) / 24 * np.eye(24)
    expected = np.linalg.inv(scipy.linalg.sqrtm(regular))
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-5, atol=1e-5)
    assert found.matrix.dtype == found.center.dtype == np.float32
    # Its own images become white up to the tenth.
    white = np.asarray(found.whiten(np.float32(normalised))).reshape(27, 24)
    assert abs(white.mean(0)).max() < 1e-5
    values = np.linalg.eigvalsh(covariance)
    expected = values / (values + 0.1 * values.mean())
    actual = np.linalg.eigvalsh(np.cov(white, rowvar=False, bias=True))
    np.testing.assert_allclose(actual, np.sort(expected), atol=1e-5)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_unwhitening_is_the_way_back(leading):
    found = whitened(DATASET).whitening
    images = np.random.default_rng(0).normal(size=(*leading, 2, 4, 3))
    white = jax.jit(found.whiten)(images.astype(np.float32))
    chex.assert_shape(white, images.shape)
    assert white.dtype == np.float32
    assert abs(white - images).max() > 0.1
    back = found.unwhiten(white)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, images, atol=1e-5)


def test_it_is_exact_where_products_are_not():
    program = jax.make_jaxpr(whitened(DATASET).whitening.whiten)(np.ones((2, 4, 3)))
    assert "HIGHEST" in str(program)


def test_what_cannot_be_whitened():
    with pytest.raises(ValueError, match="zca must be False: all images are the same"):
        fit_whitening(_white([[0.1, 0.2]] * 3), np.zeros(1), np.ones(1))
    large = np.broadcast_to(np.uint8(0), (1, 1000, 1000, 3))
    with pytest.raises(
        ValueError, match=r"matrices of config\.dataset\.zca take .*GiB"
    ):
        fit_whitening(large, np.zeros(3), np.ones(3))


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_store_samples_whitened_images_in_memory_and_streamed(devices):
    dataset, key = whitened(DATASET), jax.random.key(0)
    mesh = {"mesh.net": 1, "mesh.classes": devices, "num_experiments": 1}
    layout = make_layout(tiny_config(**mesh), num_classes=3)
    plain, offsets = sample_classes(make_store(DATASET), key, 4)

    def sample(store):
        one = layout.spread(
            lambda store: sample_classes(store, key, 4)[0], (store_specs(store),)
        )
        return jax.jit(one)(store)

    images = sample(make_store(dataset, layout))
    np.testing.assert_allclose(images, dataset.whitening.whiten(plain), atol=1e-5)
    streamed = sample(HostStore(dataset, layout).load(offsets))
    np.testing.assert_array_equal(streamed, images)


def test_images_that_are_held_out_have_no_part():
    config = tiny_config(**{"dataset.zca": True, "dataset.validation": 100})
    dataset = load(config)
    assert len(dataset.test_labels) == 100
    expected = whitened(dataset).whitening
    chex.assert_trees_all_equal(dataset.whitening, expected)
    every = load(tiny_config(**{"dataset.zca": True})).whitening
    assert abs(every.matrix - expected.matrix).max() > 1e-3
    assert load(tiny_config(**{"dataset.validation": 100})).whitening is None


def test_it_is_fitted_once():
    config = tiny_config(**{"dataset.zca": True})
    dataset = with_whitening(config, DATASET)
    assert with_whitening(config, dataset) is dataset
    other = dataclasses.replace(DATASET, whitening=dataset.whitening.replace(center=0))
    assert with_whitening(config, other) is other
    assert with_whitening(tiny_config(), DATASET) is DATASET


def test_a_float64_image_stays_one():
    with jax.enable_x64(True):
        white = whitened(DATASET).whitening.whiten(jnp.ones((2, 4, 3), jnp.float64))
        assert white.dtype == jnp.float64
