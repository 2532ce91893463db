"""Feature regression: the two losses by hand, and what an iteration does with them."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import run_helpers
from jax.test_util import check_grads
from toy import random_dataset

from dc_jax.base import flatten_set
from dc_jax.data.store import make_store
from dc_jax.devices.backend import Execution
from dc_jax.errors import UserError
from dc_jax.methods import feature_regression
from dc_jax.methods.feature_regression import (
    first_labels,
    margin_loss,
    regression_loss,
    train_once,
)
from dc_jax.methods.pool import Pool
from dc_jax.training.train import Recipe, squared_error

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick_compile")


class Pixels(nn.Module):
    """A linear network, whose features are the pixels."""

    def setup(self):
        self.classifier = nn.Dense(3)

    def embed(self, x, train=False):
        return x.reshape(x.shape[0], -1)

    def __call__(self, x, train=False):
        return self.classifier(self.embed(x, train))


def _method(shape=(4, 4, 1), dataset="digits", **changes):
    changes = {"method": "frepo", "ipc": 2, "batch_real": 6, "pool.size": 3} | changes
    config = run_helpers.tiny_config(**{"dataset.name": dataset} | changes)
    store = make_store(random_dataset((9, 9, 9), shape, **_statistics(shape)))
    return feature_regression.make(config, Pixels(), Execution("map", 8)), store


def _statistics(shape):
    return {"mean": (0.5,) * shape[-1], "std": (0.3,) * shape[-1]}


def test_the_regression_loss_by_hand():
    # Each real image is a multiple of the first synthetic one, whose label is learned.
    synthetic, labels = jnp.eye(2), jnp.eye(2)
    real = jnp.array([[1.0, 0.0], [0.5, 0.0]])
    # The predictions are (.5, -.5) and (.25, -.25), both targets the former.
    loss = regression_loss(real, jnp.array([0, 0]), synthetic, labels)
    np.testing.assert_allclose(loss, 0.0625 / 2, rtol=1e-4)


@pytest.mark.parametrize("num", [4, 5, 6, 9])
def test_the_regression_loss_is_that_of_ridge_regression(num):
    real, synthetic = RNG.normal(size=(7, 5)), RNG.normal(size=(num, 5))
    labels, targets = RNG.normal(size=(num, 3)), np.array([0, 1, 2, 2, 1, 0, 0])
    kernel = synthetic @ synthetic.T
    ridge = 1e-6 * np.trace(kernel) / num * np.eye(num)
    predictions = real @ synthetic.T @ np.linalg.inv(kernel + ridge) @ (labels - 1 / 3)
    errors = predictions - (np.eye(3)[targets] - 1 / 3)
    got = regression_loss(*map(jnp.asarray, (real, targets, synthetic, labels)))
    np.testing.assert_allclose(got, (errors**2).sum(1).mean() / 2, rtol=1e-4)


def test_more_images_than_features():
    # The predictions of a ReLU network with 30 features for 300 images.
    synthetic = np.maximum(RNG.normal(size=(300, 30)), 0).astype(np.float32)
    targets = RNG.integers(0, 3, 300)
    labels = np.eye(3, dtype=np.float32)[targets]
    of_itself = regression_loss(synthetic, targets, synthetic, labels)
    best = np.linalg.lstsq(synthetic.astype(float), labels - 1 / 3, rcond=None)[0]
    errors = synthetic @ best - (labels - 1 / 3)
    np.testing.assert_allclose(of_itself, (errors**2).sum(1).mean() / 2, rtol=1e-4)


@pytest.mark.parametrize("num", [3, 8])
def test_the_gradient_of_the_regression_loss(num):
    with jax.enable_x64(True):
        real, synthetic, labels = (
            jnp.asarray(RNG.normal(size=size)) for size in ((6, 5), (num, 5), (num, 3))
        )

        def loss(synthetic, labels):
            return regression_loss(real, jnp.arange(6) % 3, synthetic, labels)

        check_grads(loss, (synthetic, labels), order=1, modes=["rev"], rtol=1e-5)


def test_the_margin_loss_by_hand():
    # Of four classes: margins of .5, which is enough, .1 and -- among equals -- 0.
    labels = jnp.array([[0.7, 0.2, 0, 0.1], [0.3, 0.2, 0.2, 0.1], [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(margin_loss(labels), (0 + 0.15 + 0.25) / 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("num", "own", "other"), [(10, 1.0, 0.0), (40, 0.5125, 0.0125)]
)
def test_the_first_labels(num, own, other):
    labels = first_labels(np.arange(num)[:, None])
    np.testing.assert_allclose(labels[:, 0].diagonal(), own, rtol=1e-5)
    np.testing.assert_allclose(labels[0, 0, 1:], other, atol=1e-7)


def test_blank_slots_have_no_labels():
    labels = np.array([[0, 0], [1, -1]])
    first = first_labels(labels)
    assert not first[1, 1].any()
    assert first[1, 0].any()


def test_an_iteration_learns_images_and_labels_and_trains_one_network():
    method, store = _method()
    before, _ = method.init(store, KEY)
    after, metrics, _ = jax.jit(method.step)(before, store, KEY)
    for name in ("images", "labels"):
        assert np.abs(getattr(after, name) - getattr(before, name)).max() > 1e-6
    assert (after.pool.step - before.pool.step).sum() == 1
    np.testing.assert_allclose(sum(metrics["layers"].values()), metrics["loss"])


@pytest.mark.slow
def test_an_old_network_begins_anew():
    method, store = _method(**{"pool.size": 1, "pool.updates": 1})
    state, _ = method.init(store, KEY)
    step, ages = jax.jit(method.step), []
    for key in jax.random.split(KEY, 4):
        state, _, _ = step(state, store, key)
        ages.append(state.pool.step.item())
    assert ages == [1, 2, 0, 1]


def test_networks_learn_the_labels_of_the_set():
    network = Pixels()
    recipe = Recipe(
        network=network,
        optimiser=optax.adam(0.1),
        batch_size=10,
        slice_size=8,
        loss=squared_error,
    )
    images, labels = RNG.normal(size=(6, 4, 4, 1)), RNG.dirichlet(np.ones(3), 6)
    images, labels = jnp.float32(images), jnp.float32(labels)
    state = Pool(recipe, 1, 9).init(images, KEY)
    state = jax.tree.map(lambda leaf: leaf[0], state)

    def error(state):
        return squared_error(network.apply(state.variables, images), labels).mean()

    first = error(state)
    for _ in range(20):
        state = train_once(recipe, images, labels, state, key=KEY)
    assert error(state) < 0.5 * first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "channels", "is_flipped"),
    [
        ("cifar10", 3, True),
        pytest.param("cifar10", 1, False, marks=pytest.mark.slow),
        pytest.param("svhn", 3, False, marks=pytest.mark.slow),
    ],
)
def test_colour_images_are_also_mirrored(dataset, channels, is_flipped):
    method, store = _method((4, 4, channels), dataset)
    state, _ = method.init(store, KEY)
    step = jax.jit(method.step)
    _, metrics, _ = step(state, store, KEY)
    flipped = state.replace(images=jnp.flip(state.images, axis=-2))
    _, of_flipped, _ = step(flipped, store, KEY)
    difference = metrics["loss"] - of_flipped["loss"]
    assert (np.abs(difference) < 1e-4) == is_flipped


def test_it_has_no_augmentation():
    with pytest.raises(UserError, match='augmentation must be "none" for frepo'):
        _method(augmentation="flip")


@pytest.mark.slow
def test_the_network_sees_all_images_of_a_class():
    """Of a set whose classes differ; blank slots count for nothing."""
    method, store = _method(ipc=(2, 1, 2))
    state, _ = method.init(store, KEY)
    after, _, _ = jax.jit(method.step)(state, store, KEY)
    own = np.array([[0, 0], [1, -1], [2, 2]])
    chex.assert_shape(flatten_set(after.labels, own)[0], (5, 3))
    assert not after.labels[1, 1].any()
    assert not after.images[1, 1].any()
