"""Where the real images of a run are: on the devices, or on the host until drawn."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.data.store import ClassStore, make_store
from dc_jax.data.stream import HostStore, prefetch
from dc_jax.devices.layout import ONE_DEVICE
from dc_jax.methods import make_method
from dc_jax.run.compiled import compile_draws
from dc_jax.run.setup import Setup

# Returns the stores of some iterations, one for each, while it is entered.
MakeStores = Callable[[range], contextlib.AbstractContextManager[Iterator[ClassStore]]]


def make_stores(
    setup: Setup,
    init_keys: jax.Array,
    step_keys: jax.Array,
    experts: np.ndarray | None = None,  # [E, S, P], see `ClassStore`
) -> tuple[ClassStore, MakeStores]:
    """Returns the real images to begin with, and how to get those of iterations."""
    placed = None if experts is None else setup.layout.put(experts)
    if not setup.config.dataset.stream:
        store = make_store(setup.dataset, setup.layout).replace(experts=placed)
        return store, lambda _: contextlib.nullcontext(itertools.repeat(store))
    host = HostStore(setup.dataset, setup.layout)
    one_device = dataclasses.replace(setup.execution, layout=ONE_DEVICE)
    method = make_method(setup.config, setup.network, one_device)
    index = host.index.replace(experts=experts)
    init_draws, step_draws = compile_draws(method, index)

    def draw(iteration: int) -> jax.Array:
        return step_draws(step_keys, jnp.int32(iteration))

    def load(offsets: jax.Array) -> ClassStore:
        return host.load(offsets).replace(experts=placed)

    return load(init_draws(init_keys)), lambda iterations: contextlib.closing(
        prefetch(draw, load, iterations)
    )
