"""Pools of networks: their ages, who is drawn, and what gradient matching does."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import run_helpers
from toy import Tiny, random_dataset

from dc_jax.data.store import make_store
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import WHOLE
from dc_jax.methods import gradient_matching
from dc_jax.methods.matching import make_matching
from dc_jax.methods.pool import Pool, put, take
from dc_jax.training.train import Recipe, train

KEY = jax.random.key(0)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 1)), jnp.float32)
pytestmark = pytest.mark.usefixtures("quick_compile")


def _pool(size=3, updates=9, network: nn.Module | None = None):
    recipe = Recipe(network or Tiny(3), optax.adam(0.1), batch_size=2, slice_size=8)
    return Pool(recipe, size, updates)


def _fresh(pool, key=KEY):
    return jax.tree.map(lambda leaf: leaf[0], pool.init(IMAGES, key))


def test_networks_differ_and_their_ages_too():
    networks = _pool().init(IMAGES, KEY)
    assert networks.step.tolist() == [0, 3, 6]
    kernels = networks.variables["params"]["hidden"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_each_draw_is_of_distinct_networks_and_all_are_drawn():
    drawn = [_pool().draw(key, 2).tolist() for key in jax.random.split(KEY, 20)]
    assert all(len({*places}) == 2 for places in drawn)
    assert {place for places in drawn for place in places} == {0, 1, 2}


@pytest.mark.parametrize(("step", "begins_anew"), [(8, False), (9, False), (10, True)])
def test_a_network_trains_on_until_it_is_old(step, begins_anew):
    pool = _pool()
    network = _fresh(pool)._replace(step=jnp.int32(step))

    def train_on(network):
        labels, epochs = jnp.arange(5) % 3, 1
        return train(pool.recipe, network, IMAGES, labels, epochs=epochs, key=KEY)

    after = pool.go_on(network, train_on, IMAGES, jax.random.key(1))
    if begins_anew:
        init = pool.recipe.network.init(jax.random.key(1), IMAGES[:1])
        chex.assert_trees_all_close(after.variables, init)
        assert after.step == 0
        assert not any(leaf.any() for leaf in jax.tree.leaves(after.opt_state))
    else:
        chex.assert_trees_all_equal(after, train_on(network))
        assert after.step == step + 3  # Five images in batches of two.


def test_only_the_networks_that_were_taken_change():
    networks = _pool(4).init(IMAGES, KEY)
    places = jnp.array([3, 1])
    changed = jax.tree.map(lambda leaf: leaf + 1, take(networks, places))
    after = put(networks, places, changed, WHOLE)
    others = jnp.array([0, 2])
    chex.assert_trees_all_equal(take(after, places), changed)
    chex.assert_trees_all_equal(take(after, others), take(networks, others))


def _matching(**changes):
    config = run_helpers.tiny_config(method="dc", ipc=2, batch_real=6, **changes)
    store = make_store(random_dataset((9, 9, 9), (4, 4, 1)))
    return gradient_matching.make(config, Tiny(3), Execution("map", 8)), store


@pytest.mark.slow
def test_a_pool_of_fresh_networks_matches_as_without_one():
    """One outer step: the network is used before it is trained."""
    changes = {"outer_loop": 1, "inner_loop": 2}
    plain, store = _matching(**changes)
    pooled, _ = _matching(**{"pool.size": 1, "pool.updates": 9} | changes)
    state, _ = pooled.init(store, KEY)
    after, metrics, _ = jax.jit(pooled.step)(state, store, KEY)
    # The same real images, by the same keys, for the network of the pool.
    matching = make_matching(
        run_helpers.tiny_config(batch_real=6), Tiny(3), Execution("map", 8)
    )
    loop_key = jax.random.split(jax.random.fold_in(jax.random.split(KEY)[1], 0))[1]
    expected, _, distances, _ = gradient_matching.match_step(
        matching, state, state.pool, store, loop_key
    )
    np.testing.assert_allclose(after.images, expected.images, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], sum(distances.values()) / 3, rtol=1e-4)
    assert after.pool.step.tolist() == [2]
    assert plain.init(store, KEY)[0].pool is None


def test_networks_of_the_pool_have_been_trained_in_earlier_iterations():
    method, store = _matching(
        **{"pool.size": 1, "pool.updates": 5, "outer_loop": 2, "inner_loop": 1}
    )
    state, _ = method.init(store, KEY)
    step, ages = jax.jit(method.step), []
    for key in jax.random.split(KEY, 5):
        state, _, _ = step(state, store, key)
        ages.append(state.pool.step.item())
    # Two inner epochs an iteration: one between its outer steps, one after them.
    assert ages == [2, 4, 6, 0, 2]
