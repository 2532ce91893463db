"""How axes are run, and what a backend is given where the config leaves it open."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from jax.custom_batching import custom_vmap

from dc_jax.data.store import make_store
from dc_jax.devices.backend import batched, make_execution
from dc_jax.devices.layout import ONE_DEVICE
from dc_jax.methods import make_method
from dc_jax.networks import make_network
from dc_jax.run.compiled import compile_method
from dc_jax.run.setup import make_setup


class _On:
    """A layout of one device of another platform."""

    def __init__(self, platform):
        self.platform = platform


@pytest.mark.parametrize(
    ("loop", "num", "sizes"),
    [
        ("vmap", 20, {20}),
        ("map", 20, {1}),
        ("map", 1, {1}),
        ("vmap", 1, {1}),
        ("chunk:30", 20, {20}),
        ("chunk:10", 20, {10}),
        ("chunk:8", 20, {5}),
        ("chunk:4", 11, {4, 3}),
        ("chunk:1", 3, {1}),
    ],
)
def test_an_axis_is_run_in_even_chunks(loop, num, sizes):
    seen = set()

    @custom_vmap
    def one(x):
        return x

    @one.def_vmap
    def rule(size, is_mapped, x):
        seen.add(size)
        return x, True

    xs = jnp.arange(num, dtype=jnp.float32)
    results = jax.jit(batched(lambda x: 2 * one(x) + 1, loop))(xs)
    np.testing.assert_array_equal(results, 2 * xs + 1)
    assert seen == sizes - {1}


def _choose(platform, ipc=10, name="ConvNet", shape=(32, 32, 3), **fields):
    fields = {f"execution.{field}": value for field, value in fields.items()}
    config = run_helpers.tiny_config(**fields).execution
    layout = ONE_DEVICE if platform == "cpu" else _On(platform)
    return make_execution(config, make_network(name, 10, shape), shape, layout, ipc=ipc)


def test_classes_run_at_once_on_a_gpu_as_far_as_they_fit():
    assert _choose("cpu").class_loop == "map"
    sizes = []
    for ipc in (1, 10, 50, 500):
        loop, _, num = _choose("gpu", ipc).class_loop.partition(":")
        assert loop == "chunk"
        sizes.append(int(num))
    # Ten classes of the paper's largest sets; and never none.
    assert sizes[0] >= sizes[1] >= sizes[2] >= 10 > sizes[3] >= 1
    assert _choose("gpu", convolution="native").class_loop == "map"
    assert _choose("gpu", class_loop="vmap").class_loop == "vmap"
    assert _choose("gpu", shape=(512, 512, 3), ipc=50).class_loop == "chunk:1"


def test_the_precision_reaches_every_product():
    products = _products("highest")
    assert len(products) > 10
    assert all("HIGHEST" in line for line in products)
    # In the mean over networks the weights of the networks, of which there is one, are
    # multiplied by each array. It is of float32 in every precision.
    others = [line for line in _products("default") if "(tensor<1xf32>, " not in line]
    assert len(others) > 10
    assert not any("HIGH" in line for line in others)


def _products(precision):
    """The products and convolutions in the program of a step of gradient matching."""
    fields = {"outer_loop": 2, "execution.precision": precision}
    setup = make_setup(run_helpers.tiny_config(**fields))
    method = make_method(setup.config, setup.network, setup.execution)
    init, step = compile_method(method, setup.execution)
    store = make_store(setup.dataset, setup.layout)
    keys = jax.random.split(jax.random.key(0), setup.config.num_experiments)
    state = jax.eval_shape(init, store, keys)
    text = step.lower(state, store, keys, jnp.int32(0)).as_text()
    names = "stablehlo.dot_general", "stablehlo.convolution"
    return [line for line in text.splitlines() if any(name in line for name in names)]
