"""Distribution matching against the algorithm written out, on toy images.

Every draw of real images takes all of a class here, so that the randomness left is that
of the networks and of the augmentation.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import random_dataset

from configs import base
from dc_jax.base import CondenseState
from dc_jax.config import Config
from dc_jax.data.store import make_store, normalise
from dc_jax.devices.backend import Execution
from dc_jax.methods import make_method
from dc_jax.methods.distribution_matching import match_class
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.training.augment_siamese import OPERATIONS

CLASSES, IPC, SHAPE, PER_CLASS = 2, 3, (4, 4, 1), 5
STORE = make_store(random_dataset((PER_CLASS,) * CLASSES, SHAPE))
# All real images, `[C, N, H, W, D]`.
REAL = normalise(STORE.images, STORE.mean, STORE.std).reshape(
    CLASSES, PER_CLASS, *SHAPE
)
NAMES = ("ConvNetD1W8", "ConvNetD1W8BN")
pytestmark = pytest.mark.usefixtures("quick_compile")


@functools.cache
def _network(name):
    return make_network(name, CLASSES, SHAPE, make_conv_fn("trilinear"))


def _make_method(name, **fields):
    values = base.get_config().to_dict()
    defaults = {"method": "dm", "ipc": IPC, "augmentation": "none", "lr_img": 0.1}
    values |= defaults | {"batch_real": PER_CLASS} | fields
    return make_method(
        Config.create(values), _network(name), Execution("map", slice_size=2)
    )


def _draw_images(ipc=IPC):
    shape = (CLASSES, ipc, *SHAPE)
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def _state(images):
    return CondenseState(images, optax.sgd(0.1, 0.5).init(images))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1)
def _reference(name, images, variables):
    """The loss of one network, and its gradient with respect to the images."""

    def embed(images):
        flat = images.reshape(-1, *SHAPE)
        features, _ = _network(name).apply(
            variables, flat, train=True, method="embed", mutable=["batch_stats"]
        )
        return features.reshape(CLASSES, -1, features.shape[-1])

    syn, real, total = embed(images), embed(REAL), 0
    for label in range(CLASSES):
        means = [sum(e[label]) / len(e[label]) for e in (syn, real)]
        total += jnp.sum((means[0] - means[1]) ** 2)
    return total


@pytest.mark.parametrize(
    ("name", "num_networks"),
    [pytest.param(NAMES[0], 2, marks=pytest.mark.slow), (NAMES[1], 1)],
)
def test_step_equals_the_algorithm_written_out(name, num_networks):
    """The loss, the first update and, with momentum, the second, for M networks."""
    step = jax.jit(_make_method(name, num_networks=num_networks).step)
    images = _draw_images()
    state, velocity = _state(images), 0
    for i in range(2):
        key = jax.random.key(i)
        results = [
            _reference(name, images, _network(name).init(k, images[0, :1]))
            for k in jax.random.split(jax.random.split(key)[0], num_networks)
        ]
        losses, grads = zip(*results, strict=True)
        velocity = 0.5 * velocity + sum(grads) / num_networks
        images = images - 0.1 * velocity
        state, metrics, _ = step(state, STORE, key)
        expected = sum(losses) / num_networks / CLASSES
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
        np.testing.assert_allclose(state.images, images, rtol=1e-4, atol=1e-5)
    assert np.abs(images - _draw_images()).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_real_and_synthetic_images_are_augmented_alike(name):
    """All real images as synthetic ones have the same mean, whatever is drawn."""
    method = _make_method(name, ipc=PER_CLASS, augmentation="_".join(OPERATIONS))
    step = jax.jit(method.step)
    for seed in range(6):
        state, metrics, _ = step(_state(REAL), STORE, jax.random.key(seed))
        assert metrics["loss"] < 1e-8
        np.testing.assert_allclose(state.images, REAL, atol=1e-4)
    # In another order of classes they have not.
    _, metrics, _ = step(_state(REAL[::-1]), STORE, jax.random.key(0))
    assert metrics["loss"] > 1e-3


@pytest.mark.slow
def test_augmentation_is_drawn_for_each_class():
    # Bright or dark, and nothing else: networks without norm see it in the loss.
    plain, color = (
        jax.jit(_make_method("ConvNetD1W8NN", augmentation=name).step)
        for name in ("none", "color")
    )
    state, key = _state(_draw_images()), jax.random.key(0)
    ratios = color(state, STORE, key)[0].images - state.images
    ratios /= plain(state, STORE, key)[0].images - state.images
    medians = np.median(ratios.reshape(CLASSES, -1), axis=1)
    assert abs(medians[0] - medians[1]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("num", [7, 8])
def test_slices_change_nothing(num):
    """The gradient of many images at once, in halves, and with a rest."""
    network = _network(NAMES[0])
    images = _draw_images(num)[0]
    variables = network.init(jax.random.key(0), images[:1])
    results = [
        jax.jit(
            functools.partial(
                match_class, network, augment=jnp.negative, slice_size=slice_size
            )
        )(variables, images, REAL[0])
        for slice_size in (3, 4, 100)
    ]
    for result in results[1:]:
        chex.assert_trees_all_close(result, results[0], rtol=1e-4, atol=1e-6)
