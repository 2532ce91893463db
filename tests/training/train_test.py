"""Training against loops written out, slices against the whole, accuracy by hand."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dc_jax.devices.backend import batched, fold_slices
from dc_jax.evaluation.evaluator import accuracies
from dc_jax.networks import make_network
from dc_jax.training.accuracy import accuracy, confusion
from dc_jax.training.train import (
    Recipe,
    cross_entropy,
    init_state,
    mean_gradient,
    squared_error,
    train,
    train_epoch,
)

NUM, CLASSES = 7, 3
pytestmark = pytest.mark.usefixtures("quick_compile")


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))


class Logits(nn.Module):
    """A network whose logits are the pixels."""

    def __call__(self, x, train=False):
        return x.reshape(x.shape[0], -1)


def _draw_images(num=NUM, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(num, 4, 4, 1)).astype(np.float32)
    return jnp.asarray(images), jnp.arange(num) % CLASSES


def _init(network, seed=0):
    return jax.jit(network.init)(jax.random.key(seed), jnp.zeros((1, 4, 4, 1)))


def _recipe(network, optimiser, **options):
    return Recipe(network, optimiser, **{"batch_size": 3, "slice_size": 9, **options})


def _recorder(num_steps):
    """An optimiser that changes nothing and remembers the gradients of the bias."""

    def update(grads, state, params):
        del params
        record, step = state
        grad = grads["Dense_0"]["bias"]
        zeros = jax.tree.map(jnp.zeros_like, grads)
        return zeros, (record.at[step].set(grad), step + 1)

    return optax.GradientTransformation(
        lambda params: (jnp.zeros((num_steps, CLASSES)), 0), update
    )


def _mean_loss(network, variables, images, labels):
    """Written out, without the functions under test."""
    logits = network.apply(variables, images)
    log_probabilities = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
    return -jnp.mean(log_probabilities[jnp.arange(labels.shape[0]), labels])


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])) + 5
    result = cross_entropy(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(result, -np.log([0.5, 0.2]), rtol=1e-5)


def test_soft_cross_entropy_by_hand():
    """Half of -ln 0.5 and half of -ln 0.25."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]])) - 2
    result = cross_entropy(logits, jnp.array([[0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(result, [1.5 * np.log(2)], rtol=1e-5)


def test_squared_error_by_hand():
    """Of three classes; centred labels are 2/3 for the own class, -1/3 for others."""
    outputs = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]) - 1 / 3
    got = squared_error(outputs, jnp.array([0, 1]))
    np.testing.assert_allclose(got, [0, 0.5], atol=1e-6)
    labels = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(squared_error(outputs, labels), [0.25, 0], atol=1e-6)


def test_probabilities_of_one_class_train_like_the_class():
    network = Linear()
    recipe = _recipe(network, optax.sgd(0.5))
    images, labels = _draw_images()
    state = init_state(recipe, _init(network))
    run = jax.jit(
        lambda labels: train(
            recipe, state, images, labels, epochs=2, key=jax.random.key(0)
        )
    )
    chex.assert_trees_all_close(run(labels), run(jnp.eye(CLASSES)[labels]), rtol=1e-5)


def test_the_schedule_multiplies_each_step():
    """By the epochs done: two steps an epoch, at 0, 1/2 and 1."""
    network = Linear()
    images, labels = _draw_images(4)
    variables = _init(network)

    def last(schedule):
        recipe = _recipe(network, optax.sgd(0.5), batch_size=2, schedule=schedule)
        state = train(
            recipe,
            init_state(recipe, variables),
            images,
            labels,
            epochs=2,
            key=jax.random.key(0),
        )
        return state.variables

    seen = last(lambda done: jnp.where(done == 0.5, 1.0, 0.0))
    # The step at 1/2 alone: the second batch of the first epoch.
    order_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    batch = jax.random.permutation(order_key, 4)[2:]
    grads = jax.grad(
        lambda params: _mean_loss(
            network, {"params": params}, images[batch], labels[batch]
        )
    )(variables["params"])
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, variables["params"], grads)
    chex.assert_trees_all_close(seen["params"], expected, rtol=1e-4, atol=1e-6)


def test_mean_gradient_for_any_slice_size():
    network = Linear()
    variables = _init(network)
    images, labels = _draw_images()
    expected = jax.jit(
        jax.grad(lambda params: _mean_loss(network, {"params": params}, images, labels))
    )(variables["params"])
    for slice_size in (1, 3, NUM + 5):
        result = jax.jit(
            functools.partial(mean_gradient, network, slice_size=slice_size)
        )(variables, images, labels)
        chex.assert_trees_all_close(result, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("n", "size"), [(1, 2), (6, 3), (7, 1), (7, 3), (7, 4), (7, 7), (7, 9)]
)
def test_fold_slices_of_integers(n, size):
    xs = {"a": jnp.arange(n) + 1, "b": jnp.arange(2 * n).reshape(n, 2)}
    sizes = set()

    def function(carry, piece):
        sizes.add(piece["a"].shape[0])
        assert piece["b"].shape == (piece["a"].shape[0], 2)
        return 3 * carry + jnp.sum(piece["a"]) + jnp.sum(piece["b"])

    expected = 1
    for start in range(0, n, size):
        a, b = (np.asarray(xs[k])[start : start + size] for k in "ab")
        expected = 3 * expected + a.sum() + b.sum()
    result = jax.jit(lambda xs: fold_slices(function, jnp.int32(1), xs, size))(xs)
    assert result == expected
    assert result.dtype == jnp.int32
    assert sizes == {min(size, n - start) for start in range(0, n, size)}


def test_train_epoch_equals_a_loop_written_out():
    network = Linear()
    recipe = _recipe(network, optax.sgd(0.5, 0.9), slice_size=2)
    images, labels = _draw_images()
    variables = _init(network)
    order = jnp.array([4, 0, 6, 2, 5, 1, 3])

    params = variables["params"]
    velocity = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    @jax.grad
    def grad(params, images, labels):
        return _mean_loss(network, {"params": params}, images, labels)

    for batch in ([4, 0, 6], [2, 5, 1], [3]):
        batch = jnp.array(batch)
        grads = grad(params, images[batch], labels[batch])
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        params = jax.tree.map(lambda p, v: p - 0.5 * v, params, velocity)

    state = init_state(recipe, variables)
    assert state.step == 0
    state = jax.jit(functools.partial(train_epoch, recipe))(
        state, images, labels, order=order, key=jax.random.key(0)
    )
    chex.assert_trees_all_close(state.variables["params"], params, rtol=1e-4)
    assert state.step == 3


def test_every_epoch_sees_every_image_once_in_a_new_order():
    network, epochs = Linear(), 3
    recipe = _recipe(network, _recorder(epochs * NUM), batch_size=1)
    images, labels = _draw_images()
    variables = _init(network)
    state = jax.jit(functools.partial(train, recipe, epochs=epochs))(
        init_state(recipe, variables), images, labels, key=jax.random.key(0)
    )
    assert state.step == epochs * NUM
    # The gradient of the bias is p - onehot, by which an image is recognised.
    known = jax.nn.softmax(network.apply(variables, images)) - jnp.eye(CLASSES)[labels]
    record = np.asarray(state.opt_state[0])
    distances = np.abs(record[:, None] - np.asarray(known)[None]).max(-1)
    np.testing.assert_allclose(distances.min(1), 0, atol=1e-6)
    orders = [tuple(order) for order in distances.argmin(1).reshape(epochs, NUM)]
    assert all(sorted(order) == list(range(NUM)) for order in orders)
    assert len(set(orders)) == epochs


def test_epochs_may_be_traced_and_zero():
    network = Linear()
    recipe = _recipe(network, optax.sgd(0.5))
    images, labels = _draw_images()
    state = init_state(recipe, _init(network))

    def run(epochs, key=0):
        return traced(epochs, jax.random.key(key))

    traced = jax.jit(
        lambda epochs, key: train(recipe, state, images, labels, epochs=epochs, key=key)
    )
    chex.assert_trees_all_equal(run(0), state)
    assert run(2).step == 6
    chex.assert_trees_all_equal(run(2), run(2))
    fixed = jax.jit(functools.partial(train, recipe, epochs=2))(
        state, images, labels, key=jax.random.key(0)
    )
    chex.assert_trees_all_close(run(2), fixed, rtol=1e-6)
    # Another key, another order.
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(run(2), run(2, key=1), rtol=1e-6)


def test_accuracy_by_hand():
    images = jnp.array([[3, 1, 0], [0, 2, 1], [5, 0, 4], [0, 0, 1], [0, 1, 0]])
    images = images.astype(jnp.float32).reshape(5, 1, 3, 1)
    labels = jnp.array([0, 2, 0, 2, 0])
    for slice_size in (1, 2, 4, 5, 6):
        result = jax.jit(functools.partial(accuracy, Logits(), slice_size=slice_size))(
            {}, images, labels
        )
        np.testing.assert_allclose(result, 3 / 5, rtol=1e-6)


@pytest.mark.parametrize("slice_size", [1, 3, 4, 5, 100])
def test_confusion_by_hand(slice_size):
    predictions, labels = np.array([0, 2, 2, 1, 0]), np.array([0, 0, 2, 0, 2])
    logits = np.eye(CLASSES, dtype=np.float32)[predictions]
    counts = confusion(
        *(Logits(), {}, logits[:, None, :, None], labels), slice_size=slice_size
    )
    np.testing.assert_array_equal(counts, [[1, 1, 1], [0, 0, 0], [1, 0, 1]])
    assert counts.dtype == jnp.int32


def test_the_accuracy_is_the_trace_of_the_confusion():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 1, CLASSES, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, 50)
    args = (Logits(), {}, logits, labels)
    counts = np.asarray(confusion(*args, slice_size=16))
    right = np.mean(logits[:, 0, :, 0].argmax(1) == labels)
    assert counts.trace() / 50 == right
    assert accuracies(counts) == right
    np.testing.assert_allclose(accuracy(*args, slice_size=16), right, rtol=1e-6)
    np.testing.assert_array_equal(counts.sum(1), np.bincount(labels))


def test_batch_norm_trains_on_the_whole_batch():
    """One step against the loss written out, whatever the slices."""
    network = make_network("ConvNetD1W4BN", CLASSES, (4, 4, 1))
    images, labels = _draw_images(4)
    variables = _init(network)

    @jax.jit
    def step(params):
        def loss(params):
            logits, moved = network.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), labels]), moved

        grads, moved = jax.grad(loss, has_aux=True)(params)
        return {"params": jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)} | moved

    expected = step(variables["params"])
    for old, new in zip(
        jax.tree.leaves(variables["batch_stats"]),
        jax.tree.leaves(expected["batch_stats"]),
        strict=True,
    ):
        assert np.all(old != new)
    for slice_size in (1, 100):
        recipe = _recipe(network, optax.sgd(0.5), batch_size=4, slice_size=slice_size)
        state = jax.jit(functools.partial(train_epoch, recipe))(
            init_state(recipe, variables),
            images,
            labels,
            order=jnp.arange(4),
            key=jax.random.key(0),
        )
        chex.assert_trees_all_close(state.variables, expected, rtol=1e-4, atol=1e-6)


def test_mean_gradient_of_batch_norm_uses_running_statistics():
    network = make_network("ConvNetD1W4BN", CLASSES, (4, 4, 1))
    images, labels = _draw_images(4)
    variables = _init(network)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: leaf + 0.5, variables["batch_stats"]
    )
    expected = jax.jit(
        jax.grad(
            lambda params: _mean_loss(
                network, {**variables, "params": params}, images, labels
            )
        )
    )(variables["params"])
    result = jax.jit(functools.partial(mean_gradient, network, slice_size=4))(
        variables, images, labels
    )
    chex.assert_trees_all_close(result, expected, rtol=1e-4, atol=1e-6)


def test_augmentation_is_drawn_anew_in_every_step():
    network = Linear()
    images, labels = _draw_images(2)
    variables = _init(network)

    def recorder(augmentation):
        recipe = _recipe(network, _recorder(3), batch_size=2, augmentation=augmentation)

        @jax.jit
        def record(seed):
            state, key = init_state(recipe, variables), jax.random.key(seed)
            state = train(recipe, state, images, labels, epochs=3, key=key)
            return state.opt_state[0]

        return lambda seed: np.asarray(record(seed))

    plain = recorder("none")(0)
    np.testing.assert_allclose(plain, np.repeat(plain[:1], 3, axis=0), rtol=1e-5)
    record = recorder("noise")
    noisy = record(0)
    np.testing.assert_allclose(noisy, plain, atol=1e-2)
    differences = [np.abs(noisy[i] - noisy[j]).max() for i, j in ((0, 1), (1, 2))]
    assert min(differences) > 1e-5
    np.testing.assert_array_equal(noisy, record(0))
    assert np.abs(noisy - record(1)).max() > 1e-5


def test_augmentation_goes_on_from_the_step_of_the_state():
    network = Linear()
    images, labels = _draw_images(2)
    recipe = _recipe(network, _recorder(2), batch_size=2, augmentation="noise")
    run = jax.jit(
        lambda state: train_epoch(
            recipe,
            state,
            images,
            labels,
            order=jnp.arange(2),
            key=jax.random.key(0),
        )
    )
    record = run(run(init_state(recipe, _init(network)))).opt_state[0]
    assert np.abs(record[0] - record[1]).max() > 1e-5


def test_vmap_equals_map():
    network = Linear()
    recipe = _recipe(network, optax.sgd(0.5))
    images, labels = _draw_images()
    keys = jax.random.split(jax.random.key(0), 3)

    def run(loop):
        def one(key):
            state = init_state(recipe, network.init(key, images[:1]))
            return train(recipe, state, images, labels, epochs=2, key=key)

        return jax.jit(batched(one, loop))(keys)

    results = run("vmap")
    chex.assert_trees_all_close(results, run("map"), rtol=1e-5, atol=1e-6)
    assert results.step.shape == (3,)
