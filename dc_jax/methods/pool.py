"""A pool of networks of different ages, which go on training between iterations.

An iteration takes networks out of the pool, uses them, trains them a little on the
synthetic images, and puts them back. So networks of all ages are met without training
each from its beginning: Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural
Feature Regression" (FRePo), NeurIPS 2022, https://arxiv.org/abs/2206.00719, and the
authors' code (frepo.py of https://github.com/yongchaoz/FRePo).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dc_jax.base import CondenseState, Offsets
from dc_jax.config import Config
from dc_jax.data.store import ClassStore
from dc_jax.devices.layout import Axis
from dc_jax.methods.images import Init
from dc_jax.training.train import Recipe, TrainState, init_state


@dataclasses.dataclass(frozen=True)
class Pool:
    """What a pool needs besides arrays. Its networks are a `TrainState` `[P, ...]`."""

    recipe: Recipe  # How its networks are trained.
    size: int  # P
    updates: int  # A network that was updated more often begins anew.

    def init(self, images: jax.Array, key: jax.Array) -> TrainState:
        """Returns P fresh networks, for images `[n, H, W, D]`.

        As in the authors' code their updates are counted from different numbers, so
        that they do not all begin anew at once.
        """
        fresh = jax.vmap(lambda key: self._fresh(images, key))
        networks = fresh(jax.random.split(key, self.size))
        steps = self.updates // self.size * jnp.arange(self.size, dtype=jnp.int32)
        return networks._replace(step=steps)

    def draw(self, key: jax.Array, num: int) -> jax.Array:
        """Returns the places of distinct networks, `[num]`; at most P."""
        return jax.random.permutation(key, self.size)[:num]

    def go_on(
        self,
        network: TrainState,
        train: Callable[[TrainState], TrainState],
        images: jax.Array,  # [n, H, W, D]
        key: jax.Array,
    ) -> TrainState:
        """Trains one network, or begins it anew where it was updated enough."""
        return jax.lax.cond(
            network.step > self.updates,
            lambda _: self._fresh(images, key),
            train,
            network,
        )

    def _fresh(self, images: jax.Array, key: jax.Array) -> TrainState:
        return init_state(self.recipe, self.recipe.network.init(key, images[:1]))


def make_pool(config: Config, recipe: Recipe) -> Pool | None:
    """Returns the pool of the config; None where it has none."""
    size = config.pool.size
    return Pool(recipe, size, config.pool.updates) if size else None


def with_pool(init: Init, pool: Pool | None) -> Init:
    """Returns a `Method.init` whose state also has the networks of a pool, if any."""

    def init_both(store: ClassStore, key: jax.Array) -> tuple[CondenseState, Offsets]:
        image_key, pool_key = jax.random.split(key)
        state, offsets = init(store, image_key)
        return state.replace(pool=pool.init(state.images[0], pool_key)), offsets

    return init_both if pool else init


def take(networks: TrainState, places: jax.Array) -> TrainState:
    """Returns the networks at places. `[P, ...]`, `[m]` -> `[m, ...]`."""
    return jax.tree.map(lambda leaf: leaf[places], networks)


def put(
    networks: TrainState, places: jax.Array, changed: TrainState, devices: Axis
) -> TrainState:
    """Puts networks back at places `[M]`; each device has changed its part of them."""
    whole = devices.gather(changed, len(places))
    return jax.tree.map(lambda leaf, new: leaf.at[places].set(new), networks, whole)
