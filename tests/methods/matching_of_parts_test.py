"""Methods match what is decoded, and change what is stored."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from toy import Tiny

from dc_jax.data.formation import decode
from dc_jax.devices.backend import Execution
from dc_jax.methods import distribution_matching, gradient_matching
from dc_jax.methods.matching import make_matching

SHAPE, FACTOR = (4, 4, 1), 2
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(2, *SHAPE)), jnp.float32)
REAL = jnp.asarray(RNG.normal(size=(8, *SHAPE)), jnp.float32)
NETWORK = Tiny(3)
VARIABLES = NETWORK.init(jax.random.key(0), IMAGES)


def _by_gradients(images, factor, real=REAL):
    config = run_helpers.tiny_config()
    matching = make_matching(config, NETWORK, Execution("map", 8))
    matching = dataclasses.replace(matching, factor=factor)
    losses, grads = gradient_matching.match_class(
        matching, VARIABLES, images, real, jnp.int32(0), jnp.negative
    )
    return sum(losses.values()), grads


def _by_embeddings(images, factor):
    return distribution_matching.match_class(
        *(NETWORK, VARIABLES, images, REAL, jnp.negative), slice_size=3, factor=factor
    )


@pytest.mark.parametrize(
    "match", [pytest.param(_by_gradients, marks=pytest.mark.slow), _by_embeddings]
)
def test_the_loss_is_that_of_the_parts(match):
    decoded, decode_back = jax.vjp(lambda images: decode(images, FACTOR), IMAGES)
    expected, grads = match(decoded, 1)
    got = match(IMAGES, FACTOR)
    chex.assert_trees_all_close(got, (expected, *decode_back(grads)), rtol=1e-4)
    assert np.abs(got[1]).max() > 1e-4


def test_stored_images_learn_to_match_images_of_parts():
    real = decode(REAL[:2], FACTOR)

    @jax.jit
    def descend(images, _):
        loss, grads = _by_gradients(images, FACTOR, real)
        return images - 0.1 * grads, loss

    _, losses = jax.lax.scan(descend, IMAGES, length=50)
    assert losses[-1] < 0.8 * losses[0]
