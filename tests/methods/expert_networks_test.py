"""The networks that a store has as vectors, and methods that begin with them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from contract import DATASET, SHAPE
from jax.flatten_util import ravel_pytree
from toy import Tiny

from dc_jax.data.store import make_store
from dc_jax.devices.backend import Execution
from dc_jax.methods import make_method
from dc_jax.methods.expert_networks import begin_network, draw_network, unraveller

pytestmark = pytest.mark.usefixtures("quick_compile")

NETWORK = Tiny(3)


def test_vectors_become_the_networks_they_were():
    variables = NETWORK.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    vector, _ = ravel_pytree(variables)
    again = unraveller(NETWORK, jnp.zeros((1, *SHAPE)))(vector)
    chex.assert_trees_all_equal(again, variables)


@pytest.mark.slow
def test_an_expert_is_on_the_way_between_two_ages():
    """Expert e has the variable 100 e + a^2 at age a."""
    ages = jnp.arange(4.0)
    experts = 100 * jnp.arange(3.0)[:, None, None] + ages[None, :, None] ** 2
    keys = jax.random.split(jax.random.key(0), 500)
    drawn, last = (
        np.asarray(v)[:, 0] for v in jax.vmap(draw_network, (None, 0))(experts, keys)
    )
    assert set(last.tolist()) == {9, 109, 209}
    way = drawn - (last - 9)
    assert ((way >= 0) & (way <= 9)).all()
    # A third of the time between each two ages, anywhere on the line.
    shares = np.histogram(way, [0, 1, 4, 9])[0] / len(way)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.07)
    middle = way[(way > 1) & (way < 4)]
    assert abs(middle.mean() - 2.5) < 0.2
    assert middle.std() == pytest.approx(3 / np.sqrt(12), rel=0.15)


def test_without_experts_a_network_is_random():
    images, key = jnp.zeros((1, *SHAPE)), jax.random.key(4)
    begun = begin_network(NETWORK, images, None, key)
    chex.assert_trees_all_equal(begun, NETWORK.init(key, images))


@pytest.mark.parametrize("method", [pytest.param("dc", marks=pytest.mark.slow), "dm"])
def test_a_method_matches_the_expert_that_there_is(method):
    """One expert that does not move is what every iteration begins with."""
    fields = {"method": method, "ipc": 2, "init": "noise", "augmentation": "none"}
    fields |= {"network.begin": "experts", "experts.epochs": 1}
    config = run_helpers.tiny_config(**fields)
    made = make_method(config, NETWORK, Execution("map", 8))
    assert made.snapshots == (0, 1)
    losses = []
    for scale in (1.0, 3.0):
        images = jnp.zeros((1, *SHAPE))
        network = NETWORK.init(jax.random.key(0), images)
        vector = scale * ravel_pytree(network)[0]
        store = make_store(DATASET).replace(experts=jnp.stack([vector] * 2)[None])
        state, _ = made.init(store, jax.random.key(1))
        step = jax.jit(made.step)
        losses.append(
            [step(state, store, jax.random.key(k))[1]["loss"] for k in (2, 2)]
        )
    # The same key, the same loss; other variables, another.
    losses = np.array(losses)
    np.testing.assert_array_equal(losses[:, 0], losses[:, 1])
    assert abs(losses[0, 0] - losses[1, 0]) > 1e-3 * losses[0, 0]
