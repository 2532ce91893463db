"""Networks as vectors, as which a store has its experts."""

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
