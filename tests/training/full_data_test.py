"""Tests of training on the whole training set, and of what is learned on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from dc_jax.data.store import normalise
from dc_jax.devices.layout import make_layout
from dc_jax.networks import make_network
from dc_jax.training.accuracy import accuracy
from dc_jax.training.full_data import init_whole, read_images, train_whole
from dc_jax.training.train import Recipe

from run_helpers import tiny_config  # isort: skip

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.parametrize("has_batch_norm", [False, True])
def test_forgetting_is_counted_as_by_a_loop(has_batch_norm):
    dataset = toy.random_dataset([14, 12, 14], (4, 4, 1))
    images = normalise(dataset.train_images, dataset.mean, dataset.std)
    labels = jnp.asarray(dataset.train_labels)
    network = toy.Tiny(3, has_batch_norm)
    # A large learning rate, to forget a lot.
    recipe = Recipe(network, optax.sgd(1.0, 0.9), batch_size=16, slice_size=3)
    step = jax.jit(lambda *args: train_whole(recipe, *args))

    state = init_whole(recipe, jax.random.key(0), dataset.image_shape, 40)
    last, forgotten, is_learned = {}, np.zeros(40, int), np.zeros(40, bool)
    rng = np.random.default_rng(0)
    for _ in range(15):
        order = rng.permutation(40)
        for batch in np.split(order, [16, 32]):
            variables = state.network.variables
            if has_batch_norm:  # In training it normalises with the batch itself.
                logits, _ = network.apply(
                    variables, images[batch], train=True, mutable=["batch_stats"]
                )
            else:
                logits = network.apply(variables, images[batch])
            is_right = np.argmax(np.asarray(logits), 1) == dataset.train_labels[batch]
            for i, right in zip(batch.tolist(), is_right.tolist(), strict=True):
                forgotten[i] += last.get(i, False) and not right
                is_learned[i] |= right
                last[i] = right
            state = step(
                *(state, images[batch], labels[batch], jnp.asarray(batch)),
                jax.random.key(1),
            )
        np.testing.assert_array_equal(state.forgotten, forgotten)
        np.testing.assert_array_equal(state.is_learned, is_learned)
        np.testing.assert_array_equal(state.was_right, [last[i] for i in range(40)])
    assert forgotten.max() > 2


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_what_is_read_of_images(devices):
    layout = make_layout(tiny_config(**{"mesh.classes": devices}), 10)
    network = make_network("ConvNetD1W8", 3, (8, 8, 1))
    images = jax.random.normal(jax.random.key(0), (7, 8, 8, 1))
    variables = network.init(jax.random.key(1), images[:1])

    def read(variables, images):
        return read_images(
            network, variables, images, slice_size=2, devices=layout.everything
        )

    features, logits = jax.jit(layout.spread(read, jax.sharding.PartitionSpec()))(
        variables, images
    )
    expected = network.apply(variables, images, method="embed")
    assert features.shape == (7, 4 * 4 * 8)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    classifier = jax.tree.map(np.asarray, variables["params"]["classifier"])
    expected = np.asarray(features) @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
def test_devices_that_share_a_batch_change_nothing(devices):
    layout = make_layout(tiny_config(**{"mesh.classes": devices}), 10)
    network = make_network("ConvNetD1W8", 3, (8, 8, 1))
    images = jax.random.normal(jax.random.key(0), (10, 8, 8, 1))
    labels = jnp.arange(10) % 3
    states = []
    for axis, spread in (
        (Recipe.devices, lambda function, _: function),
        (layout.everything, layout.spread),
    ):
        recipe = Recipe(network, optax.sgd(0.1), 10, slice_size=3, devices=axis)
        state = init_whole(recipe, jax.random.key(1), (8, 8, 1), 20)
        state = state.replace(was_right=jnp.ones(20, bool))

        def step(state, images, labels, indices, key, recipe=recipe):
            return train_whole(recipe, state, images, labels, indices, key)

        step = jax.jit(spread(step, jax.sharding.PartitionSpec()))
        arguments = (images, labels, jnp.arange(3, 13), jax.random.key(2))
        states.append(step(state, *arguments))
    assert states[0].forgotten.sum() > 0
    for mine, theirs in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_the_network_learns():
    # Images that are nearly their label.
    labels = np.arange(60) % 3
    images = np.float32(labels)[:, None, None, None] + np.zeros((1, 4, 4, 1))
    recipe = Recipe(toy.Tiny(3), optax.sgd(0.3, 0.9), batch_size=20, slice_size=20)
    state = init_whole(recipe, jax.random.key(0), (4, 4, 1), 60)
    step = jax.jit(lambda *args: train_whole(recipe, *args))
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    for _ in range(60):
        for batch in jnp.split(jnp.arange(60), 3):
            state = step(state, images[batch], labels[batch], batch, jax.random.key(1))
    assert state.was_right.all()
    network = state.network
    assert accuracy(toy.Tiny(3), network.variables, images, labels, slice_size=7) == 1
    assert network.step == 180
