"""Dataset distillation against the algorithm written out, on toy images.

Every draw of real images takes all of a class here, so that the randomness left is that
of the networks.
"""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from toy import Tiny, in_one_call, random_dataset

from configs import base
from dc_jax.base import CondenseState, Method
from dc_jax.config import Config
from dc_jax.data.store import make_store, normalise
from dc_jax.devices.backend import Execution
from dc_jax.evaluation.evaluator import (
    accuracies,
    make_programs,
    train_by_learning_rates,
)
from dc_jax.methods import make_method
from dc_jax.methods.dataset_distillation import initial_rate, make_loss, real_loss
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.run.compiled import compile_method
from dc_jax.training.train import cross_entropy
from dc_jax.training.unrolled import init_xavier, train_unrolled

CLASSES, IPC, EPOCHS, SHAPE, PER_CLASS = 3, 2, 2, (3, 3, 1), 5
STORE = make_store(random_dataset((PER_CLASS,) * CLASSES, SHAPE))
# All real images and their labels.
REAL = normalise(STORE.images, STORE.mean, STORE.std)
REAL_LABELS = jnp.repeat(jnp.arange(CLASSES), PER_CLASS)
LABELS = jnp.repeat(jnp.arange(CLASSES)[:, None], IPC, axis=1)
EXECUTION = Execution("map", slice_size=4)
NETWORK = Tiny(CLASSES)
_init = jax.jit(init_xavier, static_argnums=0)
_train = jax.jit(train_unrolled, static_argnums=0)
pytestmark = pytest.mark.usefixtures("quick_compile")


def _config(**fields):
    values = base.get_config().to_dict()
    distillation = {"epochs": EPOCHS, "lr": fields.pop("lr", None)}
    defaults = {"method": "dd", "ipc": IPC, "batch_real": PER_CLASS, "iterations": 10}
    return Config.create(values | defaults | {"distillation": distillation} | fields)


def _make_method(network=NETWORK, **fields):
    return make_method(_config(**fields), network, EXECUTION)


def _draw_learned(dtype=np.float32):
    """Arbitrary images and raw learning rates, the latter all different."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(CLASSES, IPC, *SHAPE))
    raw = rng.normal(size=(EPOCHS, IPC))
    return jnp.asarray(images, dtype), jnp.asarray(raw, dtype)


@functools.partial(jax.jit, static_argnums=0)
def _train_in_a_loop(network, variables, images, rates):
    """What `train_unrolled` does, written out."""
    for r in range(rates.shape[0]):
        for i in range(images.shape[1]):

            def loss(params, variables=variables, batch=images[:, i]):
                logits, updated = network.apply(
                    {**variables, "params": params},
                    batch,
                    train=True,
                    mutable=["batch_stats"],
                )
                return cross_entropy(logits, jnp.arange(CLASSES)).mean(), updated

            grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
            params = jax.tree.map(
                lambda leaf, grad, rate=rates[r, i]: leaf - rate * grad,
                variables["params"],
                grads,
            )
            variables = {**variables, **updated, "params": params}
    return variables


class Linear(nn.Module):
    """A linear classifier that begins with weights of 0."""

    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(2, kernel_init=nn.initializers.zeros)(x)


def test_a_step_by_hand():
    # Two images of two pixels. Both classes have probability 1/2, so the gradient of
    # the column of class 0 is (-1/2 (1, 2) + 1/2 (3, -1)) / 2 = (0.5, -0.75).
    images = jnp.array([[1.0, 2.0], [3.0, -1.0]]).reshape(2, 1, 1, 2, 1)
    variables = Linear().init(jax.random.key(0), images[:, 0])
    trained = _train(
        Linear(), variables, images, jnp.array([[0], [1]]), jnp.array([[0.4]])
    )
    dense = trained["params"]["Dense_0"]
    np.testing.assert_allclose(dense["kernel"], [[-0.2, 0.2], [0.3, -0.3]], rtol=1e-6)
    np.testing.assert_allclose(dense["bias"], [0, 0], atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("has_batch_norm", [False, True])
def test_training_is_the_steps_in_order(has_batch_norm):
    network = Tiny(CLASSES, has_batch_norm)
    images, raw = _draw_learned()
    rates = 10 * jax.nn.softplus(raw)
    variables = _init(network, jax.random.key(0), images[0])
    actual = _train(network, variables, images, LABELS, rates)
    expected = _train_in_a_loop(network, variables, images, rates)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)
    turned = _train(network, variables, images[:, ::-1], LABELS, rates)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(turned, expected, rtol=1e-2)


def test_kernels_are_xavier_normal_and_biases_zero():
    module = make_network("LeNet", 10, (32, 32, 3))
    variables = _init(module, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    features = variables["params"]["features"]
    for kernel, fan_in, fan_out in (
        (features["Conv_1"]["kernel"], 25 * 6, 25 * 16),
        (features["Dense_0"]["kernel"], 400, 120),
    ):
        std = (2 / (fan_in + fan_out)) ** 0.5
        assert np.std(kernel) == pytest.approx(std, rel=0.05)
        # No cut at two standard deviations.
        assert np.abs(kernel).max() > 3 * std
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        assert (path[-1].key == "bias") == (not leaf.any())
    with_norm = Tiny(CLASSES, has_batch_norm=True)
    variables = _init(with_norm, jax.random.key(0), REAL[:1])
    assert (variables["params"]["norm"]["scale"] == 1).all()
    assert (variables["batch_stats"]["norm"]["var"] == 1).all()


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        learned = _draw_learned(np.float64)
        # Smooth, and with a convolution.
        network = make_network("ConvNetD1W4ASNN", CLASSES, SHAPE, make_conv_fn())
        loss, _ = make_loss(_config(), network, EXECUTION, STORE, jax.random.key(0))
        check_grads(
            jax.jit(loss), learned, 1, modes=["rev"], atol=1e-7, rtol=1e-6, eps=1e-4
        )
        grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(*learned)
        assert all((np.abs(grad) > 1e-6).all() for grad in grads)


@pytest.mark.slow
def test_what_is_computed_again_is_the_same(monkeypatch):
    learned, key = _draw_learned(), jax.random.key(0)
    gradients = []
    for checkpoint in (jax.checkpoint, lambda function: function):
        monkeypatch.setattr(jax, "checkpoint", checkpoint)
        loss, _ = make_loss(_config(), NETWORK, EXECUTION, STORE, key)
        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        gradients.append(gradient(*learned))
        training = functools.partial(train_unrolled, NETWORK)
        variables = _init(NETWORK, key, REAL[:1])
        program = str(
            jax.make_jaxpr(training)(variables, learned[0], LABELS, learned[1])
        )
        assert ("remat" in program) == (len(gradients) == 1)
    chex.assert_trees_all_close(*gradients, rtol=1e-5, atol=1e-8)


def _reference(images, raw, key):
    """The outer loss of one network, written out."""
    init_key, _ = jax.random.split(key)
    variables = init_xavier(NETWORK, init_key, images[0])
    trained = _train_in_a_loop(NETWORK, variables, images, jax.nn.softplus(raw))
    logits = NETWORK.apply(trained, REAL)
    return cross_entropy(logits, REAL_LABELS).mean()


@pytest.mark.slow
def test_step_equals_the_algorithm_written_out():
    """The loss and three updates of Adam, for two networks; halved at each tenth."""
    step = jax.jit(_make_method(num_networks=2).step)
    learned = _draw_learned()
    state = CondenseState(learned[0], _adam(0).init(learned), learned[1])
    opt_state = state.opt_state
    reference = jax.jit(
        jax.vmap(
            jax.value_and_grad(_reference, argnums=(0, 1)), in_axes=(None, None, 0)
        )
    )
    for i in range(3):
        keys = jax.random.split(jax.random.key(i), 2)
        losses, grads = reference(*learned, keys)
        grads = jax.tree.map(lambda leaf: leaf.mean(0), grads)
        updates, opt_state = _adam(i).update(grads, opt_state)
        learned = optax.apply_updates(learned, updates)
        state, metrics, _ = step(state, STORE, jax.random.key(i))
        np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-5)
        chex.assert_trees_all_close(
            (state.images, state.raw_lrs), learned, rtol=1e-4, atol=1e-5
        )
    assert np.abs(learned[0] - _draw_learned()[0]).max() > 0.01


def _adam(iteration):
    # A schedule, so that the state is the same as one with a schedule.
    return optax.adam(lambda _: 0.01 * 0.5**iteration, b1=0.5, b2=0.999)


def test_learning_rates_begin_with_the_authors():
    state, _ = _make_method().init(STORE, jax.random.key(0))
    np.testing.assert_allclose(jax.nn.softplus(state.raw_lrs), 0.02, rtol=1e-5)
    assert state.raw_lrs.shape == (EPOCHS, IPC)
    assert abs(state.images.std() - 1) < 0.2
    config = _config()
    cifar10 = dataclasses.replace(config.dataset, name="cifar10")
    assert initial_rate(dataclasses.replace(config, dataset=cifar10)) == 0.001
    assert initial_rate(_config(lr=0.5)) == 0.5


def test_defaults_are_the_authors():
    config = Config.create(base.get_config().to_dict() | {"method": "dd"})
    assert (config.init, config.lr_img, config.augmentation) == ("noise", 0.01, "none")
    assert (config.iterations, config.batch_real) == (20000, 102)
    assert (config.distillation.epochs, config.distillation.lr) == (3, None)


def test_augmentation_is_refused():
    with pytest.raises(ValueError, match="augmentation must be \"none\" .* got 'flip'"):
        _make_method(augmentation="flip")


@pytest.mark.slow
def test_slices_change_nothing():
    variables = _init(NETWORK, jax.random.key(0), REAL[:1])
    weights = jnp.arange(1.0, 1 + len(REAL)) / 100
    expected = weights @ cross_entropy(NETWORK.apply(variables, REAL), REAL_LABELS)
    for slice_size in (4, 5, 100):
        actual = real_loss(
            NETWORK, variables, REAL, REAL_LABELS, weights, slice_size=slice_size
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_learning_rate_that_is_not_finite_is_noticed():
    def step(state, store, key):
        del store, key
        return state, {"loss": jnp.zeros(())}, ()

    _, step = compile_method(Method(None, step), EXECUTION)
    images, raw = _draw_learned()
    keys = jax.random.split(jax.random.key(0), 1)
    for value in (0.0, jnp.nan):
        state = CondenseState(images[None], (), raw.at[1, 0].set(value)[None])
        _, metrics = step(state, STORE, keys, jnp.int32(0))
        assert metrics["is_finite"].item() == (value == 0)


@pytest.mark.slow
def test_own_evaluation_equals_a_plain_loop():
    images, raw = _draw_learned()
    rates = jax.nn.softplus(raw)
    keys = jax.random.split(jax.random.key(0), 6)
    training = train_by_learning_rates(NETWORK)
    programs = make_programs(training, NETWORK, EXECUTION)
    evaluate = jax.jit(in_one_call(programs))
    actual = evaluate((images, LABELS, rates), REAL, REAL_LABELS, keys)
    expected = []
    for key in keys:
        variables = _init(NETWORK, key, images[0])
        trained = _train_in_a_loop(NETWORK, variables, images, rates)
        predictions = NETWORK.apply(trained, REAL).argmax(-1)
        expected.append((predictions == REAL_LABELS).mean())
    np.testing.assert_allclose(accuracies(actual), expected, rtol=1e-6)
    assert min(expected) < max(expected)
