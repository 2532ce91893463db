"""The networks that a store has as vectors: which one an iteration begins with."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def unraveller(
    network: nn.Module, images: jax.Array
) -> Callable[[jax.Array], dict[str, Any]]:
    """Returns what turns vectors `[P]` of a network back into its variables.

    It takes any images `[n, H, W, D]`. The vectors are those of `ravel_pytree`.
    """
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    _, unravel = ravel_pytree(
        jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    )
    return unravel


def draw_network(experts: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws an expert at any age, from `[E, S, P]`; returns it and its last variables.

    Between two ages that are kept, the variables are on the line between theirs, as in
    NCFM, whose experts have two. Both results are `[P]`.
    """
    expert_key, age_key = jax.random.split(key)
    ages = experts[jax.random.randint(expert_key, (), 0, len(experts))]
    age = jax.random.uniform(age_key) * (len(ages) - 1)
    before = jnp.int32(age)
    part = age - before
    return (1 - part) * ages[before] + part * ages[before + 1], ages[-1]


def begin_network(
    network: nn.Module,
    images: jax.Array,  # [n, H, W, D], any
    experts: jax.Array | None,  # [E, S, P]
    key: jax.Array,
) -> dict[str, Any]:
    """Returns the variables of a random network; of an expert if there are any."""
    if experts is None:
        return network.init(key, images)
    vector, _ = draw_network(experts, key)
    return unraveller(network, images)(vector)
