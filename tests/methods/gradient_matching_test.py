"""The method against the algorithm written out in Python loops, on toy images.

Every draw of real images takes all of a class here, so that the randomness left is that
of the networks and of the images to begin with.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import Tiny, make_dataset

from configs import base
from dc_jax.base import CondenseState, Method
from dc_jax.config import Config
from dc_jax.data.store import ClassStore, make_store, normalise
from dc_jax.devices.backend import Execution
from dc_jax.methods import METHODS, make_method
from dc_jax.methods.batch_norm import BATCH_NORM_IMAGES, freeze_batch_norm
from dc_jax.methods.gradient_matching import match_step
from dc_jax.methods.inner_loop import init_networks, train_networks
from dc_jax.methods.matching import Matching
from dc_jax.training.augment_siamese import OPERATIONS
from dc_jax.training.train import Recipe

CLASSES, IPC, SHAPE = 2, 2, (4, 4, 1)
PER_CLASS = BATCH_NORM_IMAGES
pytestmark = pytest.mark.usefixtures("quick_compile")


PLAIN, BATCH_NORM = Tiny(CLASSES), Tiny(CLASSES, has_batch_norm=True)


def _make_store() -> ClassStore:
    rng = np.random.default_rng(0)
    labels = np.arange(CLASSES * PER_CLASS, dtype=np.int32) % CLASSES
    centres = rng.integers(0, 200, (CLASSES, *SHAPE))
    noise = rng.integers(0, 56, (len(labels), *SHAPE))
    images = (centres[labels] + noise).astype(np.uint8)
    return make_store(make_dataset(images, labels, mean=(0.4,)))


STORE = _make_store()


def _real(label):
    """All images of a class, `[PER_CLASS, H, W, D]`."""
    images = STORE.images.reshape(CLASSES, PER_CLASS, *SHAPE)[label]
    return normalise(images, STORE.mean, STORE.std)


def _config(**fields) -> Config:
    values = base.get_config().to_dict()
    values |= {
        "ipc": IPC,
        "outer_loop": 1,
        "inner_loop": 1,
        "batch_real": PER_CLASS,
        "momentum_img": 0.5,
    }
    return Config.create(values | fields)


def _make_method(network=PLAIN, loop="map", **fields) -> Method:
    return make_method(_config(**fields), network, Execution(loop, slice_size=8))


def _make_matching(
    network=PLAIN, lr_net=0.01, momentum=0.0, num_networks=1
) -> Matching:
    return Matching(
        recipe=Recipe(
            network=network,
            optimiser=optax.sgd(lr_net),
            batch_size=256,
            slice_size=8,
        ),
        distance="ours",
        batch_real=PER_CLASS,
        optimiser=optax.sgd(0.1, momentum or None),
        num_networks=num_networks,
        network_loop="map",
    )


def _take(tree, index):
    """One of the elements along the leading axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _draw_images(seed=0):
    shape = (CLASSES, IPC, *SHAPE)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _make_networks(matching):
    return jax.jit(functools.partial(init_networks, matching))(
        _draw_images(), jax.random.key(3)
    )


def _distance(syn, real):
    """Equations 9 and 10, an output unit at a time."""
    total = 0
    for a, b in zip(jax.tree.leaves(syn), jax.tree.leaves(real), strict=True):
        for unit in range(a.shape[-1] if a.ndim > 1 else 0):
            x, y = a[..., unit].ravel(), b[..., unit].ravel()
            norms = jnp.sqrt(jnp.sum(x**2)) * jnp.sqrt(jnp.sum(y**2))
            total += 1 - jnp.sum(x * y) / (norms + 1e-6)
    return total


@functools.cache
def _make_reference(network):
    """The loss of one network, summed over classes, and its gradient.

    It takes the variables of the network, with the statistics to be matched with, and
    the images.
    """

    def gradient(variables, images, label):
        def loss(params):
            logits = network.apply({**variables, "params": params}, images)
            return -jnp.mean(jax.nn.log_softmax(logits)[:, label])

        return jax.grad(loss)(variables["params"])

    def loss(images, variables):
        total = 0
        for label in range(CLASSES):
            syn = gradient(variables, images[label], label)
            total += _distance(syn, gradient(variables, _real(label), label))
        return total

    return jax.jit(jax.value_and_grad(loss))


def _moved_statistics(network, variables):
    """One pass in training mode over all real images, with batch norm only."""
    if "batch_stats" not in variables:
        return variables
    real = jnp.concatenate([_real(label) for label in range(CLASSES)])
    apply = functools.partial(network.apply, train=True, mutable=["batch_stats"])
    return {**variables, **jax.jit(apply)(variables, real)[1]}


@pytest.mark.parametrize(
    ("network", "num_networks"),
    [(PLAIN, 2), (BATCH_NORM, 1)],
    ids=["plain", "batch_norm"],
)
def test_match_step_equals_the_algorithm_written_out(network, num_networks):
    """The loss, the first update and, with momentum, the second, for M networks."""
    matching = _make_matching(network, momentum=0.5, num_networks=num_networks)
    networks = _make_networks(matching)
    images = _draw_images()
    matched = [
        _moved_statistics(network, _take(networks.variables, m))
        for m in range(num_networks)
    ]
    step = jax.jit(functools.partial(match_step, matching))
    state = CondenseState(images, matching.optimiser.init(images))
    velocity = 0
    for i in range(2):
        results = [_make_reference(network)(images, variables) for variables in matched]
        losses, grads = zip(*results, strict=True)
        velocity = 0.5 * velocity + sum(grads) / num_networks
        images = images - 0.1 * velocity

        state, after, loss, _ = step(state, networks, STORE, jax.random.key(i))
        np.testing.assert_allclose(
            sum(loss.values()), sum(losses) / num_networks, rtol=1e-4
        )
        np.testing.assert_allclose(state.images, images, rtol=1e-4, atol=1e-5)
        # Neither the images nor the matching move the statistics any further.
        for m in range(num_networks):
            chex.assert_trees_all_close(
                _take(after.variables, m), matched[m], rtol=1e-5, atol=1e-6
            )
    # Compared to the tolerance.
    assert np.abs(images - _draw_images()).max() > 1e-2


@pytest.mark.slow
def test_real_and_synthetic_images_are_augmented_alike():
    """All real images as synthetic ones have the same gradient, whatever is drawn."""
    plain = _make_matching()
    augmented = dataclasses.replace(plain, augmentation="_".join(OPERATIONS))
    images = jnp.stack([_real(label) for label in range(CLASSES)])
    state = CondenseState(images, plain.optimiser.init(images))
    step = jax.jit(functools.partial(match_step, augmented))
    networks = _make_networks(plain)
    for seed in range(6):
        _, _, loss, _ = step(state, networks, STORE, jax.random.key(seed))
        np.testing.assert_allclose(sum(loss.values()), 0, atol=1e-2)
    # Others have not, and what is drawn changes how much.
    others = CondenseState(_draw_images(), state.opt_state)
    losses = [
        sum(step(others, networks, STORE, jax.random.key(seed))[2].values())
        for seed in range(3)
    ]
    assert min(losses) > 0.1
    assert len(set(map(float, losses))) == 3


def test_batch_norm_is_set_by_one_pass_over_real_images():
    before = _take(_make_networks(_make_matching(BATCH_NORM)).variables, 0)
    expected = _moved_statistics(BATCH_NORM, before)
    freeze = jax.jit(functools.partial(freeze_batch_norm, BATCH_NORM))
    result, offsets = freeze(before, STORE, jax.random.key(1))
    chex.assert_trees_all_close(result, expected, rtol=1e-5, atol=1e-6)
    old, new = (jax.tree.leaves(v["batch_stats"]) for v in (before, result))
    assert all(np.all(a != b) for a, b in zip(old, new, strict=True))
    np.testing.assert_array_equal(np.sort(offsets), [range(PER_CLASS)] * CLASSES)


def test_networks_without_batch_norm_are_left_alone():
    variables = {"params": {"kernel": jnp.ones(3)}}
    result, offsets = freeze_batch_norm(PLAIN, variables, STORE, jax.random.key(0))
    assert result is variables
    assert offsets is None


@pytest.mark.slow
def test_networks_are_trained_between_two_matches_only():
    """A step with T = 2 against its parts: match, train, match."""
    matching = _make_matching(lr_net=1.0)
    images, key = _draw_images(), jax.random.key(0)

    @jax.jit
    def by_parts(images, epochs):
        init_key, other_key = jax.random.split(key)
        networks = init_networks(matching, images, init_key)
        state = CondenseState(images, matching.optimiser.init(images))
        state, networks, first, _ = match_step(
            matching, state, networks, STORE, other_key
        )
        networks = train_networks(
            matching, networks, state.images, epochs=epochs, key=other_key
        )
        state, _, second, _ = match_step(matching, state, networks, STORE, other_key)
        both = {name: (first[name] + second[name]) / 2 / CLASSES for name in first}
        return state, both

    expected, expected_loss = by_parts(images, 3)
    method = _make_method(outer_loop=2, inner_loop=3, momentum_img=0.0, lr_net=1.0)
    state = CondenseState(images, optax.sgd(0.1).init(images))
    state, metrics, _ = jax.jit(method.step)(state, STORE, key)
    chex.assert_trees_all_close(state, expected, rtol=1e-4, atol=1e-5)
    assert list(expected_loss) == ["classifier/kernel", "hidden/kernel"]
    for name, value in expected_loss.items():
        np.testing.assert_allclose(metrics["layers"][name], value, rtol=1e-4)
    total = sum(expected_loss.values())
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)
    untrained, _ = by_parts(images, 0)
    assert np.abs(state.images - untrained.images).max() > 1e-3


def test_one_outer_step_trains_no_network():
    """Its program does not know of the inner loop; that of two outer steps does."""
    key = jax.random.key(0)

    def lower(**fields):
        method = _make_method(**fields)
        state, _ = jax.eval_shape(method.init, STORE, key)
        return jax.jit(method.step).lower(state, STORE, key).as_text()

    one = lower(outer_loop=1, inner_loop=1)
    assert lower(outer_loop=1, inner_loop=7, lr_net=1.0) == one
    two = lower(outer_loop=2, inner_loop=1)
    assert lower(outer_loop=2, inner_loop=7) != two
    assert lower(outer_loop=2, inner_loop=1, lr_net=1.0) != two


def test_train_networks_trains_each_network_on_the_synthetic_images():
    matching = _make_matching(num_networks=2)
    networks = _make_networks(matching)
    images = _draw_images()
    trained = jax.jit(functools.partial(train_networks, matching, epochs=1))(
        networks, images, key=jax.random.key(0)
    )
    network = matching.recipe.network
    flat, labels = images.reshape(-1, *SHAPE), jnp.array([0, 0, 1, 1])

    def loss(params):
        log_probabilities = jax.nn.log_softmax(network.apply({"params": params}, flat))
        return -jnp.mean(log_probabilities[jnp.arange(4), labels])

    for m in range(2):
        params = _take(networks.variables["params"], m)
        grads = jax.jit(jax.grad(loss))(params)
        chex.assert_trees_all_close(
            _take(trained.variables["params"], m),
            jax.tree.map(lambda p, g: p - 0.01 * g, params, grads),
            rtol=1e-5,
            atol=1e-6,
        )


def test_method_is_the_one_of_the_config(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", lambda config, *_: config.method)
    assert _make_method(method="mine") == "mine"
