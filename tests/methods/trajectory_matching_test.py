"""Trajectory matching: what a student learns, the loss and its gradient, labels."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from contract import DATASET, SHAPE
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from toy import Tiny

from dc_jax.data.store import make_store
from dc_jax.devices.backend import Execution
from dc_jax.errors import UserError
from dc_jax.methods.expert_labels import mean_labels
from dc_jax.methods.trajectory_matching import (
    draw_points,
    make,
    start_bound,
    train_student,
    trajectory_loss,
)
from dc_jax.training.train import cross_entropy

pytestmark = pytest.mark.usefixtures("quick_compile")

CLASSES = 3
NETWORK = Tiny(CLASSES)
EXECUTION = Execution("map", 8)


def _student(variables, images, labels, lr, *, exact=True, batch_size=9, steps=3):
    return train_student(
        NETWORK,
        variables,
        images,
        labels,
        lr,
        steps=steps,
        batch_size=batch_size,
        augmentation="none",
        is_exact=exact,
        key=jax.random.key(7),
    )


@pytest.fixture(name="inputs")
def _inputs():
    """A network, images, labels, and where it shall go."""
    images = jax.random.normal(jax.random.key(1), (6, *SHAPE))
    start = NETWORK.init(jax.random.key(2), images)
    target = jax.tree.map(lambda leaf: leaf + 0.3 * jnp.cos(leaf), start)
    return start, images, jnp.array([0, 1, 2, 2, 1, 0]), target


def _gradient(params, images, labels):
    def loss(params):
        return cross_entropy(NETWORK.apply({"params": params}, images), labels).mean()

    return jax.grad(loss)(params)


def test_a_student_takes_steps_of_gradient_descent_on_all_images(inputs):
    start, images, labels, _ = inputs
    params = start["params"]
    for _ in range(3):
        grads = _gradient(params, images, labels)
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
    student = _student(start, images, labels, 0.5)
    chex.assert_trees_all_close(student["params"], params, rtol=1e-5, atol=1e-6)


def test_the_batches_of_an_epoch_are_of_distinct_images(inputs):
    """At a tiny rate gradients add up: an epoch is a step with all images."""
    start, images, labels, _ = inputs
    one = _student(start, images, labels, 1e-3, batch_size=6, steps=2)
    three = _student(start, images, labels, 1e-3 / 3, batch_size=2, steps=6)
    moved = jax.tree.map(jnp.subtract, one, start)
    close = jax.tree.map(jnp.subtract, three, start)
    chex.assert_trees_all_close(moved, close, rtol=0.02, atol=1e-6)


def test_the_loss_by_hand():
    start, target = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([2.0, 4.0])}
    student = {"a": jnp.array([2.0, 3.0])}
    assert trajectory_loss(student, start, target) == pytest.approx(1 / 5)
    assert trajectory_loss(start, start, target) == pytest.approx(1)


def test_the_exact_gradient_is_that_of_the_loss(inputs):
    start, images, labels, target = inputs
    with jax.enable_x64(True):
        start, images, target = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (start, images, target)
        )

        def loss(images, lr):
            student = _student(start, jnp.asarray(images), labels, lr)
            return trajectory_loss(student, start, target)

        check_grads(loss, (images, jnp.float64(0.5)), order=1, modes=["rev"])


@pytest.mark.slow
def test_the_gradient_of_tesla_takes_each_step_alone(inputs):
    """Every step's gradient, times what the student lacks of the target."""
    start, images, labels, target = inputs
    lr = 0.5

    def loss(images, lr):
        student = _student(start, images, labels, lr, exact=False)
        return trajectory_loss(student, start, target)

    by_images, by_lr = jax.grad(loss, argnums=(0, 1))(images, lr)
    path = [start["params"]]
    for _ in range(3):
        grads = _gradient(path[-1], images, labels)
        path.append(jax.tree.map(lambda p, g: p - lr * g, path[-1], grads))
    flat = functools.partial(lambda tree: ravel_pytree(tree)[0])
    lacking = flat(path[-1]) - flat(target["params"])
    scale = 2 / jnp.sum((flat(path[0]) - flat(target["params"])) ** 2)

    def product(images):
        return sum(flat(_gradient(p, images, labels)) @ lacking for p in path[:-1])

    expected = -lr * scale * jax.grad(product)(images)
    np.testing.assert_allclose(by_images, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_lr, -scale * product(images), rtol=1e-4)


@pytest.mark.parametrize(
    ("max_start", "growth", "iteration", "bound"),
    [(20, 0, 5, 20), (20, 1000, 0, 10), (20, 1000, 500, 15), (20, 1000, 9999, 20)]
    + [(1, 10, 0, 1), (3, 10, 0, 1), (3, 10, 10, 3)],
)
def test_the_bound_grows_from_its_half(max_start, growth, iteration, bound):
    assert start_bound(max_start, growth, jnp.int32(iteration)) == bound


def test_both_points_are_of_one_expert():
    experts = jnp.arange(3 * 5).reshape(3, 5, 1)
    keys = jax.random.split(jax.random.key(0), 200)
    draw = functools.partial(draw_points, experts, bound=jnp.int32(3), epochs=2)
    starts, targets = jax.vmap(lambda key: draw(key))(keys)
    assert set((starts // 5).ravel().tolist()) == {0, 1, 2}
    assert set((starts % 5).ravel().tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(targets, starts + 2)


def test_labels_are_of_experts_that_are_right():
    logits = jnp.array([[[2.0, 0.0], [3.0, 0.0]], [[0.0, 4.0], [1.0, 0.0]]])
    labels = mean_labels(logits, jnp.array([0, 1]))
    # The first expert alone is right about the first image; none is about the second.
    expected = jax.nn.softmax(jnp.array([[2.0, 0.0], [2.0, 0.0]]))
    np.testing.assert_allclose(labels, expected, rtol=1e-6)


def _run(iterations=1, experts=None, **fields):
    """Returns the states of a run on Tiny networks, and the losses."""
    fields = {"init": "noise", "augmentation": "none", "lr_img": 5.0} | fields
    config = run_helpers.tiny_config(
        **{"method": "mtt", "ipc": 2, "lr_net": 1.0, "trajectories.steps": 2}
        | {"trajectories.max_start": 1}
        | fields
    )
    method = make(config, NETWORK, EXECUTION)
    if experts is None:
        rng = np.random.default_rng(0)
        size = len(
            ravel_pytree(NETWORK.init(jax.random.key(0), jnp.zeros((1, *SHAPE))))[0]
        )
        experts = rng.normal(size=(2, len(method.snapshots), size))
    store = make_store(DATASET).replace(experts=jnp.asarray(experts, jnp.float32))
    states, losses = [method.init(store, jax.random.key(3))[0]], []
    step = jax.jit(method.step)
    for index in range(iterations):
        state, metrics, _ = step(states[-1], store, jax.random.key(index))
        states.append(state)
        losses.append(float(metrics["loss"]))
    return states, losses


@pytest.mark.parametrize(
    ("labels", "gradient"),
    [
        pytest.param("hard", "exact", marks=pytest.mark.slow),
        pytest.param("hard", "tesla", marks=pytest.mark.slow),
        pytest.param("learned", "exact", marks=pytest.mark.slow),
        pytest.param("learned", "tesla", marks=pytest.mark.slow),
    ],
)
def test_images_lead_where_an_expert_went(labels, gradient):
    """The expert was trained on images that the method does not see."""
    images = jax.random.normal(jax.random.key(5), (30, *SHAPE))
    start = NETWORK.init(jax.random.key(6), images)
    places = jnp.argmax(images.reshape(30, -1)[:, :CLASSES], axis=1)
    end = _student(start, images, places, 1.0, batch_size=30, steps=4)
    expert = jnp.stack([ravel_pytree(one)[0] for one in (start, start, end)])
    fields = {"labels": labels, "trajectories.gradient": gradient}
    fields |= {"trajectories.steps": 4, "trajectories.lr_lr": 0.01, "lr_label": 0.5}
    _, losses = _run(60, expert[None], **fields, lr_img=1.0)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_a_loss_above_the_threshold_changes_nothing():
    _, (loss,) = _run()
    for threshold, changes in [(0.9 * loss, False), (1.1 * loss, True)]:
        (before, after), _ = _run(**{"trajectories.threshold": threshold})
        assert after.iteration == 1
        for name in ("images", "student_lr"):
            is_same = (getattr(before, name) == getattr(after, name)).all()
            assert bool(is_same) != changes


@pytest.mark.slow
def test_learned_labels_are_a_softmax_that_descends(inputs):
    """Kept as probabilities, they move as logits do that are kept apart."""
    start, images, _, target = inputs
    expert = jnp.stack([ravel_pytree(one)[0] for one in (start, start, target)])
    fields = {"labels": "learned", "lr_label": 50.0, "trajectories.threshold": 1e9}
    fields |= {"trajectories.growth": 0, "lr_img": 1e-9, "trajectories.lr_lr": 1e-9}
    states, _ = _run(3, expert[None], **fields)
    flat = states[0].images.reshape(-1, *SHAPE)

    def loss(logits):
        labels = jax.nn.softmax(logits)
        student = _student(start, flat, labels, 1.0, batch_size=6, steps=2)
        return trajectory_loss(student, start, target)

    logits, pushed = jnp.log(states[0].labels.reshape(6, CLASSES)), 0.0
    for state in states[1:]:
        pushed = 0.9 * pushed + jax.grad(loss)(logits)
        logits = logits - 50.0 * pushed
        expected = jax.nn.softmax(logits).reshape(state.labels.shape)
        assert np.abs(state.labels - states[0].labels).max() > 1e-3
        np.testing.assert_allclose(state.labels, expected, rtol=1e-3, atol=1e-5)


def test_what_an_expert_must_be():
    with pytest.raises(UserError, match=r"config\.network\.name .* got ConvNetBN"):
        _run(**{"network.name": "ConvNetBN"})
    for epochs in (1, 3):
        message = rf"config\.experts\.epochs must be 2, .* got {epochs}"
        with pytest.raises(UserError, match=message):
            _run(**{"experts.epochs": epochs})
