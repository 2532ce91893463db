"""The networks that gradients are matched on: where they come from, how they train.

Each iteration of the paper begins with fresh networks, and trains them on the synthetic
images between two outer steps: the inner loop of its algorithm 1. With a pool they come
from there, and go on training after the last outer step.
"""

import jax

from dc_jax.base import CondenseState
from dc_jax.data.store import ClassStore
from dc_jax.devices.backend import batched
from dc_jax.methods.expert_networks import begin_network
from dc_jax.methods.images import Learned, learnable, training_set
from dc_jax.methods.matching import Matching
from dc_jax.methods.pool import put, take
from dc_jax.training.train import TrainState, init_state, train


def begin_networks(
    matching: Matching, state: CondenseState, store: ClassStore, key: jax.Array
) -> tuple[TrainState, jax.Array | None]:
    """Returns this device's part of the M networks of an iteration.

    They are fresh, or experts, or from the pool; then their places `[M]` in it are
    returned, too.
    """
    if matching.pool is None:
        return init_networks(matching, state.images, key, store.experts), None
    places = matching.pool.draw(key, matching.num_networks)
    mine, _ = matching.layout.networks.part(matching.num_networks)
    return take(state.pool, places[mine]), places


def return_networks(
    matching: Matching,
    state: CondenseState,
    networks: TrainState,  # leaves [M, ...]
    places: jax.Array,  # [M]
    *,
    epochs: int,
    key: jax.Array,
) -> CondenseState:
    """Trains networks of the pool once more, or begins them anew; puts them back."""

    def go_on(network: TrainState, key: jax.Array) -> TrainState:
        fresh_key, train_key = jax.random.split(key)
        train_one = _trainer(matching, learnable(state), epochs)
        return matching.pool.go_on(
            network,
            lambda network: train_one(network, train_key),
            state.images[0],
            fresh_key,
        )

    keys = network_keys(matching, key)
    changed = batched(go_on, matching.network_loop)(networks, keys)
    pool = put(state.pool, places, changed, matching.layout.networks)
    return state.replace(pool=pool)


def init_networks(
    matching: Matching,
    images: jax.Array,
    key: jax.Array,
    experts: jax.Array | None = None,
) -> TrainState:
    """Returns this device's part of M networks, the leading axis of a leaf.

    They are random, or experts where there are any, `[E, S, P]`.
    """
    recipe = matching.recipe

    def init(key: jax.Array) -> TrainState:
        variables = begin_network(recipe.network, images[0, :1], experts, key)
        return init_state(recipe, variables)

    return jax.vmap(init)(network_keys(matching, key))


def network_keys(matching: Matching, key: jax.Array) -> jax.Array:
    """Returns a key for each of this device's networks."""
    mine, _ = matching.layout.networks.part(matching.num_networks)
    return jax.random.split(key, matching.num_networks)[mine]


def train_networks(
    matching: Matching,
    networks: TrainState,
    learned: Learned,  # [C, I, ...]
    *,
    epochs: int,
    key: jax.Array,
) -> TrainState:
    """The inner loop: trains the M networks on the images."""
    train_one = _trainer(matching, learned, epochs)
    keys = network_keys(matching, key)
    return batched(train_one, matching.network_loop)(networks, keys)


def _trainer(matching, learned, epochs):
    """Returns `(network, key) -> network`, which trains one network on all images."""
    images, soft_labels = learned if isinstance(learned, tuple) else (learned, None)
    labels = matching.labels(images)
    flat, labels = training_set(images, soft_labels, labels, matching.factor)

    def train_one(state: TrainState, key: jax.Array) -> TrainState:
        return train(matching.recipe, state, flat, labels, epochs=epochs, key=key)

    return train_one
