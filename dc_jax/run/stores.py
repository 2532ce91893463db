"""Where the real images of a run are: on the devices, or on the host until drawn."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from dc_jax.data.store import ClassStore, make_store
from dc_jax.data.stream import HostStore, prefetch
from dc_jax.devices.layout import ONE_DEVICE
from dc_jax.methods import make_method
from dc_jax.run.compiled import compile_draws
from dc_jax.run.setup import Setup

# Returns the stores of some iterations, one for each, while it is entered.
MakeStores = Callable[[range], contextlib.AbstractContextManager[Iterator[ClassStore]]]


def make_stores(
    setup: Setup, init_keys: jax.Array, step_keys: jax.Array
) -> tuple[ClassStore, MakeStores]:
    """Returns the real images to begin with, and how to get those of iterations."""
    if not setup.config.dataset.stream:
        store = make_store(setup.dataset, setup.layout)
        return store, lambda _: contextlib.nullcontext(itertools.repeat(store))
    host = HostStore(setup.dataset, setup.layout)
    one_device = dataclasses.replace(setup.execution, layout=ONE_DEVICE)
    method = make_method(setup.config, setup.network, one_device)
    init_draws, step_draws = compile_draws(method, host.index)

    def draw(iteration: int) -> jax.Array:
        return step_draws(step_keys, jnp.int32(iteration))

    store = host.load(init_draws(init_keys))
    return store, lambda iterations: contextlib.closing(
        prefetch(draw, host.load, iterations)
    )
