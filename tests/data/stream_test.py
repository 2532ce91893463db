"""Tests of streaming: the same numbers as with all images on the devices."""

import contextlib
import threading

import jax
import numpy as np
import pytest
from toy import random_dataset

from dc_jax.data.store import make_store, sample_classes, take_images
from dc_jax.data.stream import HostStore, prefetch

pytestmark = pytest.mark.usefixtures("quick_compile")

CLASSES, SHAPE = 3, (4, 4, 1)
# The last has fewer than are drawn.
COUNTS = (400, 300, 5)


@pytest.mark.parametrize("num", [4, 9])
def test_a_sample_needs_its_own_images_alone(num):
    dataset, key = random_dataset(COUNTS, SHAPE), jax.random.key(0)
    host, whole = HostStore(dataset), make_store(dataset)
    sample = jax.jit(sample_classes, static_argnums=2)
    images, offsets = sample(whole, key, num)
    store = host.load(offsets)
    assert store.images.shape == (CLASSES * num, *SHAPE)
    streamed, same_offsets = sample(store, key, num)
    np.testing.assert_array_equal(streamed, images)
    np.testing.assert_array_equal(same_offsets, offsets)
    # The index draws the same.
    np.testing.assert_array_equal(sample(host.index, key, num)[1], offsets)
    take = jax.jit(take_images)
    for label in range(CLASSES):
        one = take(store, label, offsets[label])
        np.testing.assert_array_equal(one, images[label])


def test_no_more_is_held_than_there_is():
    host = HostStore(random_dataset(COUNTS, SHAPE))
    offsets = np.random.default_rng(0).integers(0, 5, (CLASSES, 1000))
    store = host.load(offsets)
    assert store.resident.shape == (CLASSES, max(COUNTS))
    np.testing.assert_array_equal(store.resident[:, :5], [list(range(5))] * CLASSES)
    assert store.counts.tolist() == list(COUNTS)


def _num_threads():
    return sum(thread.is_alive() for thread in threading.enumerate())


def test_the_next_is_loaded_while_one_is_used():
    loaded = [threading.Event() for _ in range(3)]

    def load(iteration):
        loaded[iteration].set()
        return str(iteration)

    before, used = _num_threads(), []
    for iteration in prefetch(lambda iteration: iteration, load, range(3)):
        used.append(iteration)
        assert all(event.wait(10) for event in loaded[: len(used) + 1])
        assert not any(event.is_set() for event in loaded[len(used) + 1 :])
    assert used == ["0", "1", "2"]
    assert _num_threads() == before
    assert list(prefetch(int, load, range(2, 2))) == []


def test_an_error_is_raised_by_the_iteration_that_needs_the_images():
    def load(iteration):
        if iteration == 2:
            raise OSError("the disk is gone")
        return iteration

    before = _num_threads()
    stores = prefetch(int, load, range(5))
    assert [next(stores), next(stores)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(stores)
    assert _num_threads() == before


def test_a_loop_that_is_left_ends_the_thread():
    before = _num_threads()
    with contextlib.closing(prefetch(int, int, range(5))) as stores:
        assert next(stores) == 0
        assert _num_threads() == before + 1
    assert _num_threads() == before
