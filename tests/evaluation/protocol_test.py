"""The evaluation protocol: its defaults, its schedule against a plain loop."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from dc_jax.config import PROTOCOLS, EvaluationConfig
from dc_jax.devices.backend import Execution
from dc_jax.evaluation.evaluator import (
    accuracies,
    make_programs,
    train_by_protocol,
)
from dc_jax.evaluation.protocol import (
    NAMED,
    Protocol,
    adamw,
    cosine,
    make_protocol,
    phases,
    sgd,
)
from dc_jax.training.train import squared_error

pytestmark = pytest.mark.usefixtures("quick_compile")
PROTOCOL = Protocol(
    network="MLP",
    epochs=3,
    augmentation="none",
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    batch_size=256,
)
OPEN = EvaluationConfig(
    network=None,
    epochs=None,
    augmentation=None,
    protocol="paper",
    lr=None,
    momentum=None,
    weight_decay=None,
    batch_size=None,
    optimiser=None,
    schedule=None,
    cutmix=None,
    loss=None,
    random_baseline=True,
)


class Threshold(nn.Module):
    """Tells pixels above a learned threshold (class 0) from those below it (class 1).

    Its accuracy on a fine grid of pixels, all of class 0, gives the threshold away.
    """

    @nn.compact
    def __call__(self, x, train=False):
        threshold = self.param("threshold", nn.initializers.zeros, ())
        x = x.reshape(-1)
        return jnp.stack([x, jnp.broadcast_to(threshold, x.shape)], axis=1)


@pytest.mark.parametrize(
    ("dataset_name", "network_name", "augmentation", "epochs"),
    [
        ("svhn", "ConvNet", "none", 300),
        ("mnist", "ConvNet", "crop_scale_rotate", 1000),
        ("mnist", "MLP", "crop_scale_rotate", 1000),
        ("cifar10", "ConvNetBN", "crop_noise", 1000),
        ("mnist", "ConvNetBN", "crop_noise", 1000),
        ("fashion_mnist", "ResNet18BN", "none", 300),
    ],
)
def test_defaults_are_the_authors(dataset_name, network_name, augmentation, epochs):
    protocol = make_protocol(OPEN, dataset_name=dataset_name, network_name=network_name)
    expected = Protocol(network_name, epochs, augmentation, 0.01, 0.9, 5e-4, 256)
    assert protocol == expected
    assert len(phases(protocol, Linear(), Execution("map", 1))) == 2


def test_named_evaluations_are_the_same_for_every_method_but_for_flips():
    assert tuple(NAMED) == PROTOCOLS
    siamese = "dsa:color_crop_cutout_flip_scale_rotate"

    def make(name, dataset_name="cifar10", **fields):
        config = dataclasses.replace(OPEN, protocol=name, **fields)
        return make_protocol(
            config, dataset_name=dataset_name, network_name="ConvNetBN"
        )

    dsa, strong, frepo = make("dsa"), make("strong"), make("frepo")
    assert (dsa.augmentation, dsa.epochs, dsa.schedule) == (siamese, 1000, "drop")
    assert (strong.augmentation, strong.schedule) == (siamese, "cosine")
    assert dsa.cutmix == 0 < strong.cutmix < 1
    for dataset_name in ("mnist", "svhn", "digits"):
        unflipped = make("strong", dataset_name).augmentation
        assert unflipped == siamese.replace("flip_", "")
    assert make("strong", "svhn", augmentation="dsa:flip").augmentation == "dsa:flip"
    changed = make("strong", cutmix=0.0, epochs=7, lr=0.5, schedule="drop")
    assert (changed.cutmix, changed.epochs, changed.lr) == (0, 7, 0.5)
    assert changed.optimiser == strong.optimiser == "adamw"
    assert "AdamW" in str(strong)
    assert (changed.schedule, changed.protocol) == ("drop", "strong")
    (recipe, _), *_ = phases(frepo, Linear(), Execution("map", 1))
    assert recipe.loss is squared_error
    assert "squared error" in str(frepo)
    for one in (dsa, strong, changed, frepo):
        assert one.protocol in str(one)
    assert "CutMix" in str(strong)
    assert "CutMix" not in str(changed)


def test_a_recipe_of_an_earlier_version_is_the_papers():
    training = {"network": "MLP", "epochs": 300, "augmentation": "none", "lr": 0.01}
    training |= {"momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256}
    assert Protocol(**training) == dataclasses.replace(PROTOCOL, epochs=300)


def test_the_cosine_by_hand():
    """Of 40 epochs two are the warm-up; 21 is half of the rest."""
    factors = [cosine(jnp.float32(done), epochs=40) for done in (0, 1, 2, 21, 40)]
    np.testing.assert_allclose(factors, [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_config_overrides_the_defaults():
    def make(**fields):
        config = dataclasses.replace(OPEN, **fields)
        return make_protocol(config, dataset_name="mnist", network_name="ConvNet")

    # The network that is evaluated decides, not the one that condensed.
    protocol = make(network="ConvNetBN")
    assert (protocol.network, protocol.augmentation) == ("ConvNetBN", "crop_noise")
    protocol = make(augmentation="none")
    assert (protocol.augmentation, protocol.epochs) == ("none", 300)
    protocol = make(augmentation="noise")
    assert (protocol.augmentation, protocol.epochs) == ("noise", 1000)
    assert make(epochs=5).epochs == 5
    protocol = make(lr=0.1, momentum=0.0, weight_decay=0.0, batch_size=8)
    assert (protocol.lr, protocol.momentum) == (0.1, 0.0)
    assert (protocol.weight_decay, protocol.batch_size) == (0.0, 8)
    with pytest.raises(ValueError, match="'flip'"):
        make(augmentation="flip")


def test_protocol_in_words():
    assert str(dataclasses.replace(PROTOCOL, epochs=300)) == (
        "MLP, 300 + 1 epochs of SGD (lr 0.01, a tenth of it after 152 epochs, "
        "momentum 0.9, weight decay 0.0005, batch 256), augmentation none"
    )


def test_sgd_is_pytorchs():
    """torch.optim.SGD(lr=0.1, momentum=0.5, weight_decay=0.1) by hand.

    With w = 1 and the gradients 1, 2, -1: d = g + 0.1 w is 1.1, 2.089, -0.93739, and
    v <- 0.5 v + d is 1.1, 2.639, 0.38211; w <- w - 0.1 v.
    """
    optimiser = sgd(0.1, 0.5, 0.1)
    w = jnp.float32(1)
    state = optimiser.init(w)
    for grad, expected in ((1, 0.89), (2, 0.6261), (-1, 0.587889)):
        updates, state = optimiser.update(jnp.float32(grad), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_adamw_by_hand():
    """The first update is the sign of the gradient, and the decay is apart from it."""
    optimiser = adamw(0.1, 0.9, 0.5)
    w = jnp.float32(2)
    updates, _ = optimiser.update(jnp.float32(7), optimiser.init(w), w)
    np.testing.assert_allclose(updates, -0.1 * (1 + 0.5 * 2), rtol=1e-5)


def test_sgd_without_momentum():
    optimiser = sgd(0.1, 0.0, 0.1)
    w = jnp.float32(1)
    state = optimiser.init(w)
    for grad, expected in ((1, 0.89), (2, 0.6811)):
        updates, state = optimiser.update(jnp.float32(grad), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, expected, rtol=1e-6)


def _make_evaluate(protocol, network, execution):
    training = train_by_protocol(protocol, network, execution)
    return jax.jit(toy.in_one_call(make_programs(training, network, execution)))


def _threshold_by_a_loop(protocol, pixels, labels):
    """The authors' loop: `epochs` + 1 epochs, a drop and a new optimiser in one."""
    threshold, velocity, lr = 0.0, 0.0, protocol.lr
    for epoch in range(protocol.epochs + 1):
        probability = 1 / (1 + np.exp(pixels - threshold))  # of class 1
        grad = np.mean(probability - labels) + protocol.weight_decay * threshold
        velocity = protocol.momentum * velocity + grad
        threshold -= lr * velocity
        if epoch == protocol.epochs // 2 + 1:
            velocity, lr = 0.0, lr * 0.1
    return threshold


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 9])
def test_schedule_is_that_of_a_plain_loop(epochs):
    protocol = dataclasses.replace(
        PROTOCOL, epochs=epochs, lr=0.5, momentum=0.9, weight_decay=0.2
    )
    pixels, labels = np.array([-1.0, -0.5, 0.4, 1.0, 2.0]), np.array([1, 1, 1, 1, 0])
    expected = _threshold_by_a_loop(protocol, pixels, labels)
    assert 0.1 < expected < 4

    low, high, num = 0, 5, 10**5
    grid = np.linspace(low, high, num, dtype=np.float32).reshape(-1, 1, 1, 1)
    evaluate = _make_evaluate(protocol, Threshold(), Execution("map", num))
    counts = evaluate(
        (jnp.asarray(pixels, jnp.float32).reshape(-1, 1, 1, 1), jnp.asarray(labels)),
        jnp.asarray(grid),
        jnp.zeros(num, jnp.int32),
        jax.random.split(jax.random.key(0), 1),
    )
    (accuracy,) = accuracies(counts)
    np.testing.assert_allclose(high - accuracy * (high - low), expected, atol=2e-4)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def _clusters(num, seed):
    """Three classes far from each other."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    centres = np.random.default_rng(7).normal(size=(3, 4, 4, 1)) * 3
    images = centres[labels] + 0.1 * rng.normal(size=(num, 4, 4, 1))
    return jnp.asarray(images, jnp.float32), jnp.asarray(labels)


def test_separable_classes_are_learned():
    protocol = dataclasses.replace(PROTOCOL, epochs=20, batch_size=3)
    evaluate = _make_evaluate(protocol, Linear(), Execution("map", slice_size=50))
    keys = jax.random.split(jax.random.key(0), 2)
    counts = evaluate(_clusters(9, seed=0), *_clusters(50, seed=1), keys)
    np.testing.assert_array_equal(counts, 2 * [np.diag([17, 17, 16])])
    np.testing.assert_array_equal(accuracies(counts), [1, 1])


def test_accuracy_is_a_function_of_the_key():
    # Random images, and enough of them to tell any two networks apart.
    num = 10_000
    rng = np.random.default_rng(0)
    test_images = jnp.asarray(rng.normal(size=(num, 4, 4, 1)), jnp.float32)
    data = (_clusters(6, seed=0), test_images, jnp.arange(num) % 3)
    keys = jax.random.split(jax.random.key(0), 3)
    protocol = dataclasses.replace(PROTOCOL, epochs=1, augmentation="noise")
    by_map, by_vmap = (
        _make_evaluate(protocol, Linear(), Execution(loop, slice_size=3000))
        for loop in ("map", "vmap")
    )
    counts = by_map(*data, keys)
    assert counts.shape == (3, 3, 3)
    assert len(set(accuracies(counts).tolist())) == 3
    np.testing.assert_array_equal(by_map(*data, keys), counts)
    np.testing.assert_array_equal(by_map(*data, keys[::-1]), counts[::-1])
    # An image on the boundary may fall to either side.
    np.testing.assert_allclose(by_vmap(*data, keys), counts, atol=1e-3 * num)


def test_accuracies_are_the_share_of_the_diagonal():
    counts = np.array([[[3, 1], [2, 4]], [[0, 4], [6, 0]]])
    np.testing.assert_array_equal(accuracies(counts), [0.7, 0])
    np.testing.assert_array_equal(accuracies(counts[None]), [[0.7, 0]])
