"""NCFM against its formulas written out, on toy images.

Every draw of real images takes all of a class here, so that the randomness left is that
of the networks and of the frequencies.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from toy import Tiny, random_dataset

from dc_jax.base import CondenseState
from dc_jax.data.store import make_store, normalise
from dc_jax.devices.backend import Execution
from dc_jax.errors import UserError
from dc_jax.methods import characteristic_functions as ncfm
from dc_jax.run.checks import check_names

CLASSES, IPC, SHAPE, PER_CLASS, FREQUENCIES = 2, 3, (4, 4, 1), 5, 7
NETWORK, LR = Tiny(CLASSES), 0.01
STORE = make_store(random_dataset((PER_CLASS,) * CLASSES, SHAPE))
# All real images, `[C, N, H, W, D]`.
REAL = normalise(STORE.images, STORE.mean, STORE.std).reshape(
    CLASSES, PER_CLASS, *SHAPE
)
pytestmark = pytest.mark.usefixtures("quick_compile")


def _config(**fields):
    fields = {"method": "ncfm", "ipc": IPC, "lr_img": LR, "augmentation": "none"}
    fields |= {"batch_real": PER_CLASS, "num_networks": 2, "iterations": 1}
    return run_helpers.tiny_config(
        **fields, **{"characteristic.frequencies": FREQUENCIES}
    )


def _experts(num=3):
    """Variables of networks, `[num, 2, P]`, and what makes variables of a vector."""
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), REAL[0, :1])
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    vector, to_variables = ravel_pytree(zeros)
    vectors = np.random.default_rng(0).normal(size=(num, 2, len(vector)))
    return jnp.asarray(vectors, jnp.float32), to_variables


def _authors_distance(a, b):
    """The formula of the authors' code, without its bound; complex `[Q]`."""
    amplitudes = (np.abs(a) - np.abs(b)) ** 2
    products = np.abs(a) * np.abs(b) - a.real * b.real - a.imag * b.imag
    return 300 * np.sqrt(amplitudes / 2 + 2 * products / 2).mean()


def test_the_distance_is_that_of_amplitudes_and_phases():
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 2, FREQUENCIES))
    expected = _authors_distance(*(x[0] + 1j * x[1] for x in (a, b)))
    got = ncfm.distance(jnp.float32(a.ravel()), jnp.float32(b.ravel()))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_distance_by_hand():
    """Of 1 and i, and of 0 and 0.6 + 0.8 i."""
    a, b = jnp.array([1.0, 0, 0, 0]), jnp.array([0, 0.6, 1, 0.8])
    expected = 300 * (np.sqrt(2 / 2) + np.sqrt(1 / 2)) / 2
    np.testing.assert_allclose(ncfm.distance(a, b), expected, rtol=1e-6)


def test_features_by_hand():
    """The embedding (3, 4) has the direction (0.6, 0.8)."""
    frequencies = np.pi / 2 * jnp.array([[1 / 0.6, 0], [0, 2 / 0.8], [0, 0]])
    got = ncfm.features(frequencies, jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    expected = [[0, -1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_gradients_are_right_and_finite_where_there_is_none():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        frequencies, target, embedded = map(
            jnp.asarray,
            (rng.normal(size=(7, 4)), rng.normal(size=14), rng.normal(size=(3, 4))),
        )

        @jax.jit
        def loss(embedded, target):
            mean = jnp.mean(ncfm.features(frequencies, embedded), axis=0)
            return ncfm.distance(mean, target)

        check_grads(loss, (embedded, target), 1, modes=["rev"])
        # The same images, and images without any feature.
        same = jnp.mean(ncfm.features(frequencies, embedded), axis=0)
        value_and_grads = jax.jit(jax.value_and_grad(loss))
        value, grads = value_and_grads(embedded, same)
        assert value < 1e-3
        assert not np.any(grads)
        assert np.isfinite(value_and_grads(jnp.zeros((3, 4)), target)[1]).all()


def test_networks_are_anywhere_between_the_first_and_the_last_of_an_expert():
    experts, _ = _experts()
    draw = jax.jit(jax.vmap(functools.partial(ncfm.draw_network, experts)))
    between, last = map(np.asarray, draw(jax.random.split(jax.random.key(0), 300)))
    experts = np.asarray(experts)
    expert = np.argmax((last[:, None] == experts[:, 1]).all(-1), axis=1)
    assert np.bincount(expert).min() > 70
    first, last = experts[expert].swapaxes(0, 1)
    part = (between - last)[:, :1] / (first - last)[:, :1]
    np.testing.assert_allclose(between, part * first + (1 - part) * last, atol=1e-4)
    # Uniform.
    uniform = np.linspace(0, 1, 300)
    np.testing.assert_allclose(np.sort(part[:, 0]), uniform, atol=0.1)


def _reference(experts, to_variables, key):
    """Matching and calibration of an iteration, of images `[C, I, H, W, D]`.

    Returns two functions to the loss, summed over classes, and its gradient.
    """

    @jax.jit
    def draw(draw_key, match_key):
        between, last = map(to_variables, ncfm.draw_network(experts, draw_key))
        shape = (FREQUENCIES, NETWORK.units)
        return between, last, jax.random.normal(jax.random.split(match_key)[0], shape)

    draw_key, match_key, _ = jax.random.split(key, 3)
    keys = jax.random.split(draw_key, 2), jax.random.split(match_key, 2)
    networks = [draw(keys[0][i], keys[1][i]) for i in range(2)]

    def mean_exp(variables, frequencies, images):
        embedded = NETWORK.apply(variables, images, method="embed")
        unit = embedded / jnp.linalg.norm(embedded, axis=1, keepdims=True)
        return jnp.mean(jnp.exp(1j * unit @ frequencies.T), axis=0)

    def matching(images):
        total = 0
        for between, _, frequencies in networks:
            phi = functools.partial(mean_exp, between, frequencies)
            for label in range(CLASSES):
                difference = phi(images[label]) - phi(REAL[label])
                total += 300 * jnp.mean(jnp.abs(difference)) / np.sqrt(2)
        return total / 2

    def calibration(images):
        total = 0
        for _, last, _ in networks:
            for label in range(CLASSES):
                powers = jnp.exp(NETWORK.apply(last, images[label]))
                total -= jnp.mean(jnp.log(powers[:, label] / jnp.sum(powers, axis=1)))
        return total / 2

    return [jax.jit(jax.value_and_grad(loss)) for loss in (matching, calibration)]


def test_a_step_is_two_updates_of_adamw():
    experts, to_variables = _experts()
    images = 0.2 * np.random.default_rng(1).normal(size=(CLASSES, IPC, *SHAPE))
    images = jnp.asarray(images, jnp.float32)
    method = ncfm.make(_config(), NETWORK, Execution("map", slice_size=2))
    key = jax.random.key(3)
    state = CondenseState(images, ncfm.make_optimiser(_config()).init(images))
    store = STORE.replace(experts=experts)
    state, metrics, _ = jax.jit(method.step)(state, store, key)

    mean, std = np.float64(STORE.mean), np.float64(STORE.std)
    pixels, first, second = np.asarray(images) * std + mean, 0, 0
    losses = _reference(experts, to_variables, key)
    for number, name in enumerate(("matching", "calibration"), 1):
        loss, grads = losses[number - 1](jnp.float32((pixels - mean) / std))
        np.testing.assert_allclose(metrics["layers"][name], loss / 2, rtol=1e-4)
        grads = np.asarray(grads) / std
        first = 0.9 * first + 0.1 * grads
        second = 0.999 * second + 0.001 * grads**2
        unbiased = first / (1 - 0.9**number), second / (1 - 0.999**number)
        pixels = pixels * (1 - LR * 5e-4)
        pixels = pixels - LR * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        pixels = np.clip(pixels, 0, 1)
    np.testing.assert_allclose(state.images, (pixels - mean) / std, atol=2e-4)
    assert np.abs(state.images - images).min() > 1e-3


def test_pixels_stay_between_0_and_1_and_blank_slots_0():
    config = run_helpers.tiny_config(method="ncfm", ipc=(3, 1), lr_img=0.7)
    images = REAL[:, :IPC].at[1, 1:].set(0)
    optimiser = ncfm.make_optimiser(config)
    state = CondenseState(images, optimiser.init(images))
    update = functools.partial(
        ncfm.update_pixels, config, optimiser, Execution("map", 1).layout, STORE
    )
    grads = jnp.where(jnp.arange(4).reshape(4, 1) < 2, 1.0, -1.0)
    grads = jnp.broadcast_to(grads, images.shape).at[1, 1:].set(0)
    state, loss = jax.jit(update)(state, jnp.array([2.0]), grads[None])
    pixels = np.asarray(state.images) * np.asarray(STORE.std) + np.asarray(STORE.mean)
    assert loss == 2
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6
    assert np.isclose(pixels[0], 0, atol=1e-6).any()
    assert np.isclose(pixels[0], 1, atol=1e-6).any()
    assert not np.any(state.images[1, 1:])


def test_the_learning_rate_is_halved_after_500_iterations_without_a_lower_loss():
    optimiser = ncfm.make_optimiser(_config())
    ones = jnp.ones(1)

    def update(state, value):
        updates, state = optimiser.update(ones, state, jnp.zeros(1), value=value)
        return state, updates[0]

    # Two updates an iteration; the first loss is the lowest, the sum is level.
    values = jnp.tile(jnp.array([1.0, 3.0]), 504)
    _, updates = jax.lax.scan(update, optimiser.init(ones), values)
    np.testing.assert_allclose(updates[: 2 * 501], -LR, rtol=1e-4)
    np.testing.assert_allclose(updates[2 * 502 :], -LR / 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"dataset.zca": True},
            "config.dataset.zca must be False for ncfm, which keeps pixels in [0, 1], "
            "got True.",
        ),
        ({"pool.size": 2}, "config.pool.size must be None for ncfm, got 2."),
        ({"sampler": "kmeans"}, "config.sampler must be random for ncfm, got kmeans."),
        (
            {"labels": "learned"},
            "config.labels must be hard or soft for ncfm, got 'learned'.",
        ),
    ],
)
def test_what_it_has_not_is_refused(fields, message):
    with pytest.raises(UserError) as error:
        check_names(run_helpers.tiny_config(method="ncfm", **fields))
    assert str(error.value) == message
