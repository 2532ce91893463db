"""Classes with different numbers of synthetic images: each as if it were alone.

What all methods have in common is in `contract`.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from contract import MethodContract
from toy import Tiny, random_dataset

from dc_jax.base import make_labels
from dc_jax.data.store import make_store, normalise
from dc_jax.devices.backend import Execution
from dc_jax.methods import (
    METHODS,
    distribution_matching,
    gradient_matching,
    inner_loop,
    make_method,
)
from dc_jax.methods.images import slot_weights
from dc_jax.methods.matching import make_matching
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.training.augment_siamese import make_siamese
from dc_jax.training.train import train

CLASSES, SHAPE = 3, (4, 4, 1)
pytestmark = pytest.mark.usefixtures("quick_compile")
IPC = (2, 3, 1)
DATASET = random_dataset((20, 11, 5), SHAPE)
STORE = make_store(DATASET)
LABELS = make_labels(IPC)
IS_IMAGE = LABELS >= 0


@functools.cache
def _network(name):
    if name.startswith("Tiny"):
        return Tiny(CLASSES, has_batch_norm=name == "TinyBN")
    return make_network(name, CLASSES, SHAPE, make_conv_fn("trilinear"))


def _config(**changes):
    defaults = {
        "ipc": IPC,
        "outer_loop": 1,
        "inner_loop": 2,
        "batch_real": 8,
        "batch_train": 4,
    }
    return run_helpers.tiny_config(**defaults | changes)


def _make_method(name, **changes):
    return make_method(_config(**changes), _network(name), Execution("map", 8))


def _draw_images():
    images = np.random.default_rng(0).normal(size=(CLASSES, max(IPC), *SHAPE))
    return (images * IS_IMAGE[..., None, None, None]).astype(np.float32)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("dc", "TinyBN"),
        pytest.param("dsa", "Tiny", marks=pytest.mark.slow),
        ("dm", "Tiny"),
        pytest.param("dm", "TinyBN", marks=pytest.mark.slow),
        ("dd", "Tiny"),
    ],
)
def test_equal_numbers_are_the_same_program_as_one_number(method, name):
    def lower(ipc):
        made = _make_method(name, method=method, ipc=ipc, outer_loop=2)
        state, _ = jax.eval_shape(made.init, STORE, jax.random.key(0))
        return jax.jit(made.step).lower(state, STORE, jax.random.key(0)).as_text()

    one = lower(3)
    assert lower((3, 3, 3)) == one
    if method != "dd":
        assert lower((3, 3, 2)) != one


def _real(label, num=8):
    images = DATASET.train_images[DATASET.train_labels == label][:num]
    return normalise(images, DATASET.mean, DATASET.std)


@pytest.mark.slow
def test_the_loss_of_a_class_is_that_of_its_images_alone():
    network = _network("ConvNetD1W8")
    images = _draw_images()[0]
    variables = network.init(jax.random.key(0), images[:1])
    augment = make_siamese(jax.random.key(1), "color", SHAPE)
    matching = make_matching(_config(), network, Execution("map", 8))

    def by_gradients(images, weights):
        return gradient_matching.match_class(
            *(matching, variables, images, _real(0), jnp.int32(0), augment),
            weights=weights,
        )

    def by_embeddings(images, weights):
        return distribution_matching.match_class(
            *(network, variables, images, _real(0), augment),
            slice_size=2,
            weights=weights,
        )

    for match in (by_gradients, by_embeddings):
        loss, grads = jax.jit(match)(images, slot_weights(LABELS)[0])
        expected, expected_grads = jax.jit(match)(images[:2], None)
        chex.assert_trees_all_close(loss, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(grads[:2], expected_grads, rtol=1e-3, atol=1e-5)
        assert np.abs(grads[:2]).max() > 1e-4
        assert not np.any(grads[2])


def test_batch_norm_of_distribution_matching_is_that_of_the_images():
    """Blank slots are neither in its statistics nor in the means."""
    network, images = _network("ConvNetD1W8BN"), jnp.asarray(_draw_images())
    variables = network.init(jax.random.key(0), images[0])
    real = jnp.stack([_real(label, 5) for label in range(CLASSES)])

    def embed(images):
        return network.apply(
            *(variables, images, True), method="embed", mutable=["batch_stats"]
        )[0]

    def loss(images):
        flat = jnp.concatenate([images[0, :2], images[1], images[2, :1]])
        syn, of_real = embed(flat), embed(real.reshape(-1, *SHAPE))
        means = jnp.stack([syn[:2].mean(0), syn[2:5].mean(0), syn[5]])
        targets = of_real.reshape(CLASSES, 5, -1).mean(1)
        losses = jnp.sum((means - targets) ** 2, axis=1)
        return losses.sum(), losses

    reference = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, expected), expected_grads = reference(images)
    match = functools.partial(
        distribution_matching.match_classes, network, augment=jnp.asarray, labels=LABELS
    )
    losses, grads = jax.jit(match)(variables, images, real)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(grads, expected_grads, rtol=1e-3, atol=1e-5)
    assert not np.any(grads[~IS_IMAGE])


def test_networks_are_trained_on_the_images_alone():
    network, images = _network("TinyBN"), jnp.asarray(_draw_images())
    matching = make_matching(_config(), network, Execution("map", 8))
    key = jax.random.key(0)
    networks = jax.jit(functools.partial(inner_loop.init_networks, matching))(
        images, key
    )
    trained = jax.jit(functools.partial(inner_loop.train_networks, matching))(
        networks, images, epochs=2, key=key
    )
    expected = jax.jit(functools.partial(train, matching.recipe))(
        jax.tree.map(lambda leaf: leaf[0], networks),
        jnp.concatenate([images[0, :2], images[1], images[2, :1]]),
        jnp.array([0, 0, 1, 1, 1, 2]),
        epochs=2,
        key=inner_loop.network_keys(matching, key)[0],
    )
    actual = jax.tree.map(lambda leaf: leaf[0], trained)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "has_batch_norm"), [("dc", True), ("dm", False), ("dm", True)]
)
def test_several_devices_equal_one(method, has_batch_norm):
    class Contract(MethodContract):
        make = staticmethod(METHODS[method])
        fields = {"method": method, "augmentation": "none", "ipc": IPC}
        network = Tiny(CLASSES, has_batch_norm)

    layout = Contract.make_layout(net=2, classes=2)
    Contract.check_same(Contract.run(1, layout=layout, stream=True), Contract.run(1))
