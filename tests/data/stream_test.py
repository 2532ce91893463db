"""Tests of streaming: the same numbers as with all images on the devices."""

import contextlib
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from toy import Tiny, random_dataset

from dc_jax.data.store import draw_offsets, make_store, sample_class
from dc_jax.data.stream import HostStore, prefetch
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE, make_layout
from dc_jax.methods import make_method
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.run.compiled import compile_draws, compile_method

CLASSES, SHAPE = 3, (4, 4, 1)
CONVNET = make_network("ConvNetD1W8", CLASSES, SHAPE, make_conv_fn("trilinear"))
# Many in two, so that an iteration draws a part; the last has fewer than are drawn.
COUNTS = (400, 300, 5)


def _config(**changes):
    defaults = {
        "ipc": 2,
        "outer_loop": 2,
        "inner_loop": 1,
        "num_experiments": 2,
        "num_networks": 2,
        "batch_real": 8,
        "mesh.net": None,
        "mesh.classes": None,
    }
    return run_helpers.tiny_config(**defaults | changes)


def _run(config, network, layout, *, stream):
    """The states and metrics of two iterations, and images in the stores of steps."""
    dataset = random_dataset(COUNTS, SHAPE)
    execution = Execution("map", 8, layout)
    method = make_method(config, network, execution)
    init, step = compile_method(method, execution)
    init_keys, step_keys = jax.random.split(
        jax.random.key(0), (2, config.num_experiments)
    )
    host, whole = HostStore(dataset, layout), make_store(dataset, layout)
    init_draws, step_draws = compile_draws(method)
    store = host.load(init_draws(host.index, init_keys)) if stream else whole
    state = init(store, init_keys)
    results, sizes = [state], set()
    for iteration in map(jnp.int32, range(2)):
        if stream:
            store = host.load(step_draws(host.index, step_keys, iteration))
        sizes.add(len(store.images))
        state, metrics = step(state, store, step_keys, iteration)
        results.append((state, metrics))
    return results, sizes


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("network", "mesh", "changes"),
    [
        (Tiny(CLASSES), None, {}),
        (Tiny(CLASSES, has_batch_norm=True), None, {"num_experiments": 1}),
        (
            Tiny(CLASSES, has_batch_norm=True),
            {"mesh.classes": 2, "mesh.net": 1},
            {"init": "real"},
        ),
        (Tiny(CLASSES), {"mesh.classes": 2, "mesh.net": 2}, {"outer_loop": 1}),
        (CONVNET, None, {"method": "dm", "outer_loop": 1}),
        (
            Tiny(CLASSES),
            {"mesh.classes": 2, "mesh.net": 2},
            {"method": "dd", "outer_loop": 1},
        ),
    ],
)
def test_steps_are_the_same_bit_for_bit(network, mesh, changes):
    config = _config(**changes | (mesh or {}))
    layout = make_layout(config, CLASSES, jax.devices()) if mesh else ONE_DEVICE
    expected, _ = _run(config, network, layout, stream=False)
    actual, sizes = _run(config, network, layout, stream=True)
    chex.assert_trees_all_equal(actual, expected)
    # The same shapes in each iteration, and far fewer images.
    assert len(sizes) == 1
    drawn = config.num_experiments * config.outer_loop * config.num_networks
    has_batch_norm = getattr(network, "has_batch_norm", False)
    drawn *= config.batch_real + (16 if has_batch_norm else 0)
    classes = CLASSES + 1 if mesh else CLASSES
    assert sizes.pop() == classes * min(drawn, max(COUNTS))


@pytest.mark.parametrize("num", [1, 4, 9])
def test_a_sample_needs_its_own_images_alone(num):
    dataset = random_dataset(COUNTS, SHAPE)
    host, whole = HostStore(dataset), make_store(dataset)
    keys = jax.random.split(jax.random.key(0), CLASSES)
    offsets = jnp.stack([draw_offsets(whole, keys[c], c, num) for c in range(CLASSES)])
    store = host.load(offsets)
    assert store.images.shape == (CLASSES * num, *SHAPE)
    for label in range(CLASSES):
        np.testing.assert_array_equal(
            sample_class(store, keys[label], label, num),
            sample_class(whole, keys[label], label, num),
        )


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
