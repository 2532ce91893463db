"""The keys of gradient matching's step, and which real images it draws with them.

The step and `step_draws` get their keys from here, so that the latter knows beforehand,
without any network, what the former will draw.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.config import Config
from dc_jax.data.store import ClassStore, draw_classes
from dc_jax.methods.images import Draws

# Real images a class that set the statistics of batch norm, as in the authors' code.
BATCH_NORM_IMAGES = 16


def step_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of a step's fresh networks and of its outer steps."""
    init_key, loop_key = jax.random.split(key)
    return init_key, loop_key


def outer_keys(loop_key: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of outer step `t`, of training the networks and of matching."""
    train_key, match_key = jax.random.split(jax.random.fold_in(loop_key, t))
    return train_key, match_key


def match_keys(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the keys of a network's images.

    With the first those are drawn that set its batch norm, with the second those it is
    matched on; with the third these are augmented.
    """
    statistics_key, real_key, augment_key = jax.random.split(key, 3)
    return statistics_key, real_key, augment_key


def make_step_draws(config: Config, network: nn.Module) -> Draws:
    """Returns `step_draws` of gradient matching, see `Method`."""

    def step_draws(store: ClassStore, key: jax.Array) -> jax.Array:
        image = jax.ShapeDtypeStruct((1, *store.images.shape[1:]), jnp.float32)
        has_batch_norm = "batch_stats" in jax.eval_shape(network.init, key, image)
        _, loop_key = step_keys(key)

        def of_network(key: jax.Array) -> jax.Array:
            statistics_key, real_key, _ = match_keys(key)
            offsets = [draw_classes(store, real_key, config.batch_real)]
            if has_batch_norm:
                offsets.append(draw_classes(store, statistics_key, BATCH_NORM_IMAGES))
            return jnp.concatenate(offsets, axis=1)

        def of_outer_step(t: jax.Array) -> jax.Array:
            _, match_key = outer_keys(loop_key, t)
            keys = jax.random.split(match_key, config.num_networks)
            return jax.lax.map(of_network, keys)

        # One after another: the scores of all of them are large.
        offsets = jax.lax.map(of_outer_step, jnp.arange(config.loops()[0]))
        return jnp.moveaxis(offsets, 2, 0).reshape(store.num_classes, -1)

    return step_draws
