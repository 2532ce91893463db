"""Tests of the class-major store: hand-made datasets of unequal classes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_helpers import tiny_config
from toy import make_dataset

from dc_jax.data import store as store_module
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import (
    draw_offsets,
    make_store,
    normalise,
    sample_classes,
    take_images,
)
from dc_jax.devices.layout import make_layout

pytestmark = pytest.mark.usefixtures("quick_compile")

# Class 0 has 3 images, class 1 has 1, class 2 has 6, in mixed order. Image i is i.
LABELS = [2, 0, 2, 1, 2, 0, 2, 2, 0, 2]
MEMBERS = {0: [1, 5, 8], 1: [3], 2: [0, 2, 4, 6, 7, 9]}


def _dataset(dtype=np.uint8) -> Dataset:
    images = np.broadcast_to(np.arange(10)[:, None, None, None], (10, 2, 3, 2))
    images = images.astype(np.uint8) if dtype == np.uint8 else images.astype(dtype) / 16
    return make_dataset(
        np.ascontiguousarray(images), LABELS, mean=(0.25, 0.5), std=(0.5, 2.0)
    )


@pytest.mark.parametrize("devices", [1, 2])
def test_images_that_are_put_on_the_devices_in_pieces(monkeypatch, devices):
    layout = make_layout(
        tiny_config(**{"mesh.net": 1, "mesh.classes": devices}), num_classes=3
    )
    whole = make_store(_dataset(), layout)
    # Two images of 12 bytes at a time; the last piece of a part is one image.
    monkeypatch.setattr(store_module, "_PIECE", 24)
    pieces = make_store(_dataset(), layout)
    assert pieces.images.sharding == whole.images.sharding
    np.testing.assert_array_equal(pieces.images, whole.images)


@functools.partial(jax.jit, static_argnames="num")
def _sample(store, key, label, num):
    """The images of one batch of a class, or of one for every key."""

    def sample(key):
        return take_images(store, label, draw_offsets(store, key, num)[label])

    return jax.vmap(sample)(key) if key.ndim else sample(key)


def _identify(store, images) -> list[int]:
    """Which images of the dataset a uint8 batch consists of."""
    first = np.asarray(images)[:, 0, 0, 0]
    pixels = (first * np.asarray(store.std)[0] + np.asarray(store.mean)[0]) * 255
    return np.rint(pixels).astype(int).tolist()


def test_store_is_sorted_by_class_and_keeps_the_order_within():
    store = make_store(_dataset())
    assert store.images.dtype == jnp.uint8
    assert store.images[:, 0, 0, 0].tolist() == [1, 5, 8, 3, 0, 2, 4, 6, 7, 9]
    assert store.starts.tolist() == [0, 3, 4]
    assert store.counts.tolist() == [3, 1, 6]
    assert store.starts.dtype == store.counts.dtype == jnp.int32
    assert store.max_count == 6


def test_sample_is_normalised_by_hand_values():
    store = make_store(_dataset())
    images = _sample(store, jax.random.key(0), 1, 1)
    # Image 3: pixel 3 / 255, channels (x - 0.25) / 0.5 and (x - 0.5) / 2.
    pixel = 3 / 255
    expected = np.broadcast_to([(pixel - 0.25) / 0.5, (pixel - 0.5) / 2], (1, 2, 3, 2))
    assert images.dtype == jnp.float32
    np.testing.assert_allclose(images, expected, rtol=1e-6)


def test_float_images_are_not_rescaled():
    store = make_store(_dataset(np.float32))
    images = _sample(store, jax.random.key(0), 1, 1)
    np.testing.assert_allclose(images[0, 0, 0, 0], (3 / 16 - 0.25) / 0.5, rtol=1e-6)


@pytest.mark.parametrize(("label", "num"), [(0, 3), (1, 1), (2, 3), (2, 6)])
def test_no_image_is_drawn_twice_when_the_class_has_enough(label, num):
    store = make_store(_dataset())
    keys = jax.random.split(jax.random.key(0), 50)
    for images in np.asarray(_sample(store, keys, label, num)):
        drawn = _identify(store, images)
        assert len(set(drawn)) == num
        assert set(drawn) <= set(MEMBERS[label])


@pytest.mark.parametrize(("label", "num"), [(0, 5), (1, 4), (2, 7), (0, 50)])
def test_smaller_classes_are_drawn_from_with_replacement(label, num):
    store = make_store(_dataset())
    images = _sample(store, jax.random.key(0), label, num)
    chex.assert_shape(images, (num, 2, 3, 2))
    assert set(_identify(store, images)) <= set(MEMBERS[label])


def test_draws_with_replacement_reach_every_image_equally():
    store = make_store(_dataset())
    drawn = _identify(store, _sample(store, jax.random.key(0), 0, 3000))
    counts = [drawn.count(member) for member in MEMBERS[0]]
    # Mean 1000, standard deviation 26.
    assert min(counts) > 870
    assert max(counts) < 1130


def test_every_image_is_equally_likely_at_every_position():
    store = make_store(_dataset())
    keys = jax.random.split(jax.random.key(0), 6000)
    batches = _sample(store, keys, 2, 2)
    for position in range(2):
        drawn = _identify(store, batches[:, position])
        counts = [drawn.count(member) for member in MEMBERS[2]]
        # Mean 1000, standard deviation 29: all within 5 of them.
        assert min(counts) > 855
        assert max(counts) < 1145


def test_the_same_key_gives_the_same_batch_and_another_another():
    store = make_store(_dataset())
    first = _sample(store, jax.random.key(1), 2, 4)
    chex.assert_trees_all_equal(first, _sample(store, jax.random.key(1), 2, 4))
    others = [_sample(store, jax.random.key(i), 2, 4) for i in range(2, 6)]
    assert any(not np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("num", [3, 9])
def test_vmap_and_map_over_classes_equal_a_loop(num):
    store, labels = make_store(_dataset()), jnp.arange(3)
    offsets = draw_offsets(store, jax.random.key(7), num)
    loop = jnp.stack([take_images(store, c, offsets[c]) for c in range(3)])
    take = functools.partial(take_images, store)
    by_vmap = jax.jit(jax.vmap(take))(labels, offsets)
    by_map = jax.jit(lambda *args: jax.lax.map(lambda one: take(*one), args))
    chex.assert_trees_all_close(by_vmap, loop, atol=1e-6)
    chex.assert_trees_all_close(by_map(labels, offsets), loop, atol=1e-6)


def test_last_class_of_the_array_stays_within_its_own_images():
    """Class 1 is last and smaller than the largest: a shifted window would show."""
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    store = make_store(make_dataset(images, [0, 0, 0, 0, 1, 1]))
    keys = jax.random.split(jax.random.key(0), 10)
    for images in np.asarray(_sample(store, keys, 1, 2)):
        assert sorted(_identify(store, images)) == [4, 5]


@pytest.mark.parametrize("num", [2, 5])
def test_all_classes_are_sampled_with_their_offsets(num):
    store, key = make_store(_dataset()), jax.random.key(0)
    images, offsets = jax.jit(sample_classes, static_argnums=2)(store, key, num)
    assert images.shape == (3, num, 2, 3, 2)
    assert offsets.shape == (3, num)
    for label, members in MEMBERS.items():
        expected = [members[offset] for offset in offsets[label].tolist()]
        assert _identify(store, images[label]) == expected


def test_num_below_one_is_refused():
    store = make_store(_dataset())
    with pytest.raises(ValueError, match="num must be at least 1, got 0"):
        draw_offsets(store, jax.random.key(0), 0)


def test_normalise_takes_numpy_arrays_of_any_rank():
    mean, std = np.array([0.2, 0.0], np.float32), np.array([0.4, 1.0], np.float32)
    pixels = np.array([[51, 255], [255, 0]], np.uint8)
    expected = [[0.0, 1.0], [2.0, 0.0]]
    np.testing.assert_allclose(normalise(pixels, mean, std), expected, atol=1e-6)
    chex.assert_shape(normalise(pixels[None, None, None], mean, std), (1, 1, 1, 2, 2))


def test_normalise_keeps_float64():
    mean, std = np.array([0.3], np.float32), np.array([0.7], np.float32)
    with jax.enable_x64(True):
        images = jnp.zeros((2, 1), jnp.float64)
        assert normalise(images, mean, std).dtype == jnp.float64
        assert normalise(images.astype(jnp.float32), mean, std).dtype == jnp.float32
    assert normalise(np.zeros((2, 1)), mean, std).dtype == jnp.float32


def test_normalise_refuses_other_integers():
    with pytest.raises(ValueError, match="images must be uint8 or float, got int32"):
        normalise(jnp.zeros((2, 1), jnp.int32), jnp.zeros(1), jnp.ones(1))
