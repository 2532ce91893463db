"""Learning a task without forgetting: losses, batches and the balanced part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import make_layout
from dc_jax.networks import make_network
from dc_jax.run.compiled import compile_everywhere
from dc_jax.training.train import Recipe, cross_entropy, init_state
from experiments.continual_learning.incremental import (
    distillation,
    draw_batches,
    draw_per_class,
    train_distilled,
    train_plain,
)

from run_helpers import tiny_config  # isort: skip


pytestmark = pytest.mark.usefixtures("quick_compile_all")


def test_distillation_is_as_computed_by_hand():
    logits = jnp.array([[2.0, 0.0, 5.0], [0.0, 2 * np.log(3.0), 1.0]])
    old = jnp.array([[0.0, 2 * np.log(3.0), -7.0], [0.0, 2 * np.log(3.0), 3.0]])
    is_old = jnp.array([True, True, False])
    # At temperature 2 the old network has 1/4 and 3/4 of the first two classes.
    e = np.exp(1.0)
    first = -0.25 * np.log(e / (e + 1)) - 0.75 * np.log(1 / (e + 1))
    second = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    losses = distillation(logits, old, is_old, 2.0)
    np.testing.assert_allclose(losses, [first, second], rtol=1e-5)
    # Of all three classes.
    softened = np.exp(np.asarray(old) / 2)
    softened /= softened.sum(1, keepdims=True)
    logs = np.asarray(logits) / 2
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    losses = distillation(logits, old, jnp.ones(3, bool), 2.0)
    np.testing.assert_allclose(losses, -(softened * logs).sum(1), rtol=1e-5)


def test_the_gradient_of_distillation_is_zero_where_nothing_changed():
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    is_old = jnp.array([True, False, True])
    grad = jax.jit(jax.grad(lambda x: distillation(x, logits, is_old, 2.0).sum()))
    np.testing.assert_allclose(grad(logits), jnp.zeros((4, 3)), atol=1e-6)
    moved = grad(logits.at[:, 0].add(1.0))
    assert (moved[:, 0] > 0.01).all()
    np.testing.assert_array_equal(moved[:, 1], jnp.zeros(4))


def _problem():
    images = jax.random.normal(jax.random.key(0), (10, 4, 4, 1))
    labels = jnp.arange(10) % 3
    network = make_network("MLP", 3, (4, 4, 1))
    init = jax.jit(network.init)
    new, old = (init(jax.random.key(i), images) for i in (1, 2))
    recipe = Recipe(network, optax.sgd(0.1), batch_size=10, slice_size=3)
    return recipe, new, old, images, labels


@pytest.mark.parametrize("devices", [1, 2])
def test_an_update_is_along_both_gradients(devices):
    recipe, new, old, images, labels = _problem()
    is_old = jnp.array([True, True, False])

    def loss(params):
        logits = recipe.network.apply({"params": params}, images)
        old_logits = recipe.network.apply(old, images)
        distilled = distillation(logits, old_logits, is_old, 2.0)
        return jnp.mean(cross_entropy(logits, labels) + 0.7 * distilled)

    grads = jax.jit(jax.grad(loss))(new["params"])
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, new["params"], grads)
    layout = make_layout(tiny_config(**{"mesh.classes": devices}), 10)
    recipe = Recipe(
        recipe.network,
        recipe.optimiser,
        batch_size=10,
        slice_size=3,
        devices=layout.everything,
    )
    step = functools.partial(train_distilled, recipe, weight=0.7, temperature=2.0)
    arguments = jax.tree.map(
        lambda leaf: layout.put(np.asarray(leaf)),
        (init_state(recipe, new), old, is_old, images, labels),
    )
    state = compile_everywhere(step, Execution("map", 3, layout))(*arguments)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        state.variables["params"],
        expected,
    )


def test_an_update_without_distillation_is_a_plain_one():
    recipe, new, old, images, labels = _problem()
    state = init_state(recipe, new)
    step = functools.partial(train_distilled, recipe, weight=0.0, temperature=2.0)
    distilled = jax.jit(step)(state, old, jnp.ones(3, bool), images, labels)
    plain = jax.jit(functools.partial(train_plain, recipe))(state, images, labels)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        distilled.variables,
        plain.variables,
    )
    assert int(plain.step) == 1


def test_as_many_are_drawn_of_each_class():
    labels = np.repeat([0, 2, 3], [9, 7, 2])
    drawn = draw_per_class(labels, 4, np.random.default_rng(0))
    assert np.bincount(labels[drawn]).tolist() == [4, 0, 4, 2]
    assert len(set(drawn.tolist())) == len(drawn)


@pytest.mark.parametrize("size", [3, 25])
def test_batches_go_round_all_images(size):
    batches = list(draw_batches(10, size, 20, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [size] * 20
    drawn = np.concatenate(batches)[: 20 * size // 10 * 10].reshape(-1, 10)
    for epoch in drawn:
        assert sorted(epoch.tolist()) == [*range(10)]
    assert (drawn[0] != drawn[1]).any()
