"""Labels that gradient matching learns with the images."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from toy import Tiny, random_dataset

from dc_jax.base import SyntheticSet, make_labels
from dc_jax.data.store import make_store
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE
from dc_jax.methods import gradient_matching, inner_loop
from dc_jax.methods.images import learnable, make_init, make_optimiser, update_images
from dc_jax.methods.matching import make_matching
from dc_jax.sets.make import make_sets, nearest_probabilities
from dc_jax.training.train import train

CLASSES, SHAPE, LABEL = 3, (4, 4, 1), jnp.int32(1)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(2, *SHAPE)), jnp.float32)
REAL = jnp.asarray(RNG.normal(size=(8, *SHAPE)), jnp.float32)
NETWORK = Tiny(CLASSES)
VARIABLES = NETWORK.init(jax.random.key(0), IMAGES)
DATASET = random_dataset((5, 5, 5), SHAPE)
pytestmark = pytest.mark.usefixtures("quick_compile")


def _config(**changes):
    changes = {"method": "dc", "ipc": 2, "labels": "learned"} | changes
    return run_helpers.tiny_config(**changes)


def _match(learned, real=REAL):
    matching = make_matching(_config(), NETWORK, Execution("map", 8))
    return gradient_matching.match_class(
        matching, VARIABLES, learned, real, LABEL, lambda images: images
    )


@pytest.mark.slow
def test_the_labels_of_a_class_match_like_the_class():
    labels = jax.nn.one_hot(jnp.array([LABEL, LABEL]), CLASSES)
    expected, grads = _match(IMAGES)
    got, (of_images, of_labels) = _match((IMAGES, labels))
    chex.assert_trees_all_close(got, expected, rtol=1e-5)
    np.testing.assert_allclose(of_images, grads, rtol=1e-4, atol=1e-6)
    assert np.abs(of_labels).max() > 1e-4


def test_the_gradient_by_labels_is_that_of_the_loss():
    labels = jnp.asarray(RNG.dirichlet(np.ones(CLASSES), 2), jnp.float32)

    def loss(labels):
        return float(sum(_match((IMAGES, labels))[0].values()))

    _, (_, of_labels) = _match((IMAGES, labels))
    for place in np.ndindex(labels.shape):
        step = 3e-3
        change = loss(labels.at[place].add(step)) - loss(labels.at[place].add(-step))
        np.testing.assert_allclose(of_labels[place], change / step / 2, atol=2e-3)


def test_labels_begin_as_classes_and_stay_probabilities():
    config = _config(ipc=(2, 1, 2), lr_label=10.0, momentum_img=0.0)
    optimiser = make_optimiser(config)
    init = make_init(config, optimiser, NETWORK, Execution("map", 8))
    state, _ = init(make_store(DATASET), jax.random.key(0))
    own = make_labels((2, 1, 2))
    np.testing.assert_array_equal(state.labels, jax.nn.one_hot(own, CLASSES))
    grads = jax.tree.map(lambda leaf: jnp.ones_like(leaf)[None], learnable(state))
    # Only towards the last class, by ten times .02.
    grads = (grads[0], jnp.zeros_like(grads[1]).at[..., 2].set(-0.02))
    after, _ = update_images(state, jnp.zeros(1), grads, optimiser, ONE_DEVICE, 1)
    np.testing.assert_allclose(after.labels[0, 0], [0.9, 0, 0.1], atol=1e-6)
    np.testing.assert_allclose(after.labels[2, 0], [0, 0, 1], atol=1e-6)
    assert not after.labels[1, 1].any()


def test_networks_learn_the_learned_labels():
    """Labels that name other classes train like these classes."""
    matching = make_matching(_config(), NETWORK, Execution("map", 8))
    images = jnp.asarray(RNG.normal(size=(CLASSES, 2, *SHAPE)), jnp.float32)
    others = np.array([[1, 2], [0, 0], [2, 1]])
    key = jax.random.key(0)
    networks = inner_loop.init_networks(matching, images, key)

    @jax.jit
    def run(labels):
        return inner_loop.train_networks(
            matching, networks, (images, labels), epochs=3, key=key
        )

    trained = run(jax.nn.one_hot(others, CLASSES))
    flat = (images.reshape(-1, *SHAPE), jnp.asarray(others.reshape(-1)))
    one = jax.tree.map(lambda leaf: leaf[0], networks)
    own_key = inner_loop.network_keys(matching, key)[0]
    expected = train(matching.recipe, one, *flat, epochs=3, key=own_key)
    actual = jax.tree.map(lambda leaf: leaf[0], trained)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_the_nearest_probabilities_by_hand():
    labels = jnp.array([[0.5, 0.7, -0.2], [0.2, 0.3, 0.5], [9.0, 0.0, 0.0]])
    expected = [[0.4, 0.6, 0], [0.2, 0.3, 0.5], [1, 0, 0]]
    np.testing.assert_allclose(nearest_probabilities(labels), expected, atol=1e-6)


def test_sets_have_the_learned_labels():
    config = _config(ipc=(2, 1, 2))
    optimiser = make_optimiser(config)
    init = make_init(config, optimiser, NETWORK, Execution("map", 8))
    state, _ = init(make_store(DATASET), jax.random.key(0))
    state = state.replace(labels=state.labels.at[0, 0].set(jnp.array([0.8, 0.4, 0])))
    (made,) = make_sets(jax.tree.map(lambda x: x[None], state), DATASET, (2, 1, 2))
    assert isinstance(made, SyntheticSet)
    np.testing.assert_allclose(made.soft_labels[0, 0], [0.7, 0.3, 0], atol=1e-6)
    assert not made.soft_labels[1, 1].any()
