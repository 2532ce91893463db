"""The keys of gradient matching's step, and which real images it draws with them.

The step and `draw_step` get their keys from here, so that the latter knows beforehand,
without any network, what the former will draw.
"""

import jax
import jax.numpy as jnp

from dc_jax.data.store import ClassStore, draw_classes


def step_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of a step's fresh networks and of its outer steps."""
    init_key, loop_key = jax.random.split(key)
    return init_key, loop_key


def outer_keys(loop_key: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of outer step `t`, of training the networks and of matching."""
    train_key, match_key = jax.random.split(jax.random.fold_in(loop_key, t))
    return train_key, match_key


def match_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys that a network's images are drawn with.

    The first is of those that set its batch norm, the second of those it is matched on.
    """
    statistics_key, real_key = jax.random.split(key)
    return statistics_key, real_key


def draw_step(
    store: ClassStore,
    key: jax.Array,
    *,
    outer_loop: int,
    num_networks: int,
    batch_real: int,
    batch_norm: int,
) -> jax.Array:
    """Returns the offsets of all images that a step draws.

    Args:
      store: of one device; its images are not used.
      key: of the step.
      outer_loop: T.
      num_networks: M.
      batch_real: N.
      batch_norm: images a class that set batch norm; 0 without it.

    Returns:
      Shape `[C, T * M * (N + batch_norm)]`, int32.
    """
    _, loop_key = step_keys(key)

    def of_network(key: jax.Array) -> jax.Array:
        statistics_key, real_key = match_keys(key)
        offsets = [draw_classes(store, real_key, batch_real)]
        if batch_norm:
            offsets.append(draw_classes(store, statistics_key, batch_norm))
        return jnp.concatenate(offsets, axis=1)

    def of_outer_step(t: jax.Array) -> jax.Array:
        _, match_key = outer_keys(loop_key, t)
        return jax.lax.map(of_network, jax.random.split(match_key, num_networks))

    # One after another: the scores of all of them are large.
    offsets = jax.lax.map(of_outer_step, jnp.arange(outer_loop))
    return jnp.moveaxis(offsets, 2, 0).reshape(store.num_classes, -1)
