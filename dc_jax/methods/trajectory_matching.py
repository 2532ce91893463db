"""Matching training trajectories (MTT): images on which a network learns as on all.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022,
https://arxiv.org/abs/2203.11932, algorithm 1, and the authors' code (distill.py of
https://github.com/GeorgeCazenavette/mtt-distillation):

    E experts are trained on the whole training set    # run/experts.py
    for k in range(K):                                 # run/loop.py
        theta_0, target = an expert after e epochs, and after a few epochs more, where
            e is below a bound                         # `draw_points`
        for t in range(N):                             # `train_student`
            theta_t+1 = theta_t - alpha * gradient of the loss on augmented images
        L = |theta_N - target|^2 / |theta_0 - target|^2
        S, alpha <- SGD on the gradient of L through all steps

With learned labels it is DATM: Guo et al., "Towards Lossless Dataset Distillation via
Difficulty-Aligned Trajectory Matching", ICLR 2024, https://arxiv.org/abs/2310.05773.
The labels begin as the logits of the experts; the bound of e grows; and an iteration
with a large loss changes nothing.

With `gradient="tesla"` a step of training does not depend on those before it: Cui et
al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023,
https://arxiv.org/abs/2211.10586. The exact gradient does not need much more memory:
both keep only the parameters of each step, and compute all else again. For 80 steps of
100 images of 28x28 and ConvNetW32D2 the programs take 140 and 128 MB on a CPU.

With M > 1 networks L is the mean over them, which is our generalisation.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dc_jax.base import CondenseState, Method, Offsets, make_labels
from dc_jax.config import Config
from dc_jax.data.store import ClassStore
from dc_jax.devices.backend import Execution, batched
from dc_jax.errors import UserError
from dc_jax.methods.expert_labels import label_images
from dc_jax.methods.expert_networks import unraveller
from dc_jax.methods.images import first_images, mean_over_networks, training_set
from dc_jax.networks import has_batch_norm
from dc_jax.training.augment import augment
from dc_jax.training.train import mean_gradient

_MOMENTUM_LABEL = 0.9
_LEAST = 1e-30  # Of a probability, so that it has a logarithm.
# Fields of the config that it does not use.
UNUSED = (
    *("outer_loop", "inner_loop", "distance", "batch_real", "sampler"),
    "momentum_net",
)

Params = dict[str, Any]
# The dict of `images`, `lr`, and `logits` where labels are learned.
Learned = dict[str, jax.Array]


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns trajectory matching as a method.

    Devices that share the classes all do the same.

    Raises:
      UserError: the network has batch norm, whose statistics an expert does not give;
        or experts are trained for fewer or more epochs than it looks at.
    """
    _check(config)
    optimiser, of = make_optimiser(config), config.trajectories
    unravel = functools.partial(unraveller, network)

    def init(store: ClassStore, key: jax.Array) -> tuple[CondenseState, Offsets]:
        images, offsets = first_images(config, network, execution, store, key)
        state = CondenseState(
            images,
            opt_state=(),
            student_lr=jnp.asarray(config.lr_net, float),
            iteration=jnp.zeros((), jnp.int32),
        )
        if config.labels == "learned":
            labels = label_images(config, network, execution, store, images)
            state = state.replace(labels=labels)
        return state.replace(opt_state=optimiser.init(_learned(state))), offsets

    def step(
        state: CondenseState, store: ClassStore, key: jax.Array
    ) -> tuple[CondenseState, dict[str, Any], Offsets]:
        own_labels = make_labels(config.class_ipc(store.num_classes))
        bound = start_bound(of.max_start, of.growth, state.iteration)

        def match(key: jax.Array):
            point_key, train_key = jax.random.split(key)
            points = draw_points(store.experts, point_key, bound, of.expert_epochs)
            start, target = map(unravel(state.images[0, :1]), points)

            def loss(learned: Learned) -> jax.Array:
                images, labels = _training_set(config, learned, own_labels)
                student = train_student(
                    network,
                    start,
                    images,
                    labels,
                    learned["lr"],
                    steps=of.steps,
                    batch_size=config.batch_train,
                    augmentation=config.training_augmentation,
                    is_exact=of.gradient == "exact",
                    key=train_key,
                )
                return trajectory_loss(student, start, target)

            return jax.value_and_grad(loss)(_learned(state))

        mine, _ = execution.layout.networks.part(config.num_networks)
        results = batched(match, execution.network_loop)(
            jax.random.split(key, config.num_networks)[mine]
        )
        loss, grads = mean_over_networks(results, execution.layout, config.num_networks)
        after = _descend(state, grads, optimiser)
        metrics = {"loss": loss}
        if of.threshold is not None:
            is_used = loss <= of.threshold
            metrics["is_used"] = is_used.astype(float)
            after = jax.tree.map(
                lambda new, old: jnp.where(is_used, new, old), after, state
            )
        after = after.replace(iteration=state.iteration + 1)
        return after, metrics | {"student_lr": after.student_lr}, ()

    return Method(init, step, tuple(range(of.last_epoch + 1)))


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Returns the SGD on images, learning rate, and the logits of labels."""
    momentum = config.momentum_img or None
    parts = {
        "images": optax.sgd(config.lr_img, momentum),
        "lr": optax.sgd(config.trajectories.lr_lr, momentum),
    }
    if config.labels == "learned":
        parts["logits"] = optax.sgd(config.lr_label, _MOMENTUM_LABEL)
    return optax.partition(parts, {name: name for name in parts})


def start_bound(max_start: int, growth: int, iteration: jax.Array) -> jax.Array:
    """Returns below which number of epochs an expert begins, `[]`.

    It grows from half of `max_start` to the whole in `growth` iterations, if any.
    """
    if growth == 0:
        return jnp.int32(max_start)
    first = max(max_start // 2, 1)
    grown = (max_start - first) * jnp.minimum(iteration, growth) // growth
    return first + grown


def draw_points(
    experts: jax.Array,  # [E, S, P], after 0, 1, ... epochs
    key: jax.Array,
    bound: jax.Array,  # []
    epochs: int,
) -> tuple[jax.Array, jax.Array]:
    """Draws an expert after fewer than `bound` epochs, and after `epochs` more.

    Returns it as two vectors `[P]`.
    """
    expert_key, start_key = jax.random.split(key)
    expert = jax.random.randint(expert_key, (), 0, len(experts))
    start = jax.random.randint(start_key, (), 0, bound)
    return experts[expert, start], experts[expert, start + epochs]


def train_student(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,  # [n, H, W, D], normalised
    labels: jax.Array,  # [n], or [n, C] probabilities
    lr: jax.Array,  # []
    *,
    steps: int,
    batch_size: int,
    augmentation: str,  # see `augment`
    is_exact: bool,
    key: jax.Array,
) -> dict[str, Any]:
    """Trains a network by plain gradient descent; returns its variables.

    The batches of an epoch are of distinct images and equally large; what remains of
    the images waits for another epoch. If it `is_exact`, a gradient of the result is
    that through all steps; otherwise no step depends on the steps before it.
    """
    size = min(batch_size, len(images))
    num_batches = len(images) // size

    @jax.checkpoint  # Reverse mode stores the parameters of every step, and no more.
    def step(params: Params, index: jax.Array) -> tuple[Params, None]:
        order_key, augment_key = jax.random.split(key)
        epoch, batch = index // num_batches, index % num_batches
        order_key = jax.random.fold_in(order_key, epoch)
        order = jax.random.permutation(order_key, len(images))
        places = jax.lax.dynamic_slice_in_dim(order, batch * size, size)
        augment_key = jax.random.fold_in(augment_key, index)
        inputs = augment(augment_key, images[places], augmentation)
        before = params if is_exact else jax.lax.stop_gradient(params)
        grads = mean_gradient(
            network, {"params": before}, inputs, labels[places], slice_size=size
        )
        return jax.tree.map(lambda p, g: p - lr * g, params, grads), None

    params, _ = jax.lax.scan(step, variables["params"], jnp.arange(steps))
    return {"params": params}


def trajectory_loss(student: Any, start: Any, target: Any) -> jax.Array:
    """Returns the squared distance of student and target over that of start and target.

    All are trees of arrays; the result is `[]`. As in the authors' code.
    """

    def distance(tree: Any) -> jax.Array:
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), tree, target)
        return sum(jax.tree.leaves(squares))

    return distance(student) / distance(start)


def _check(config: Config) -> None:
    """Raises a `UserError` where the config has what the method cannot use."""
    if has_batch_norm(config.network.name):
        raise UserError(
            "config.network.name must be a network without batch norm for mtt, got "
            f"{config.network.name}."
        )
    needed = config.trajectories.last_epoch
    if config.experts.epochs != needed:
        raise UserError(
            f"config.experts.epochs must be {needed}, which is "
            "config.trajectories.max_start - 1 + config.trajectories.expert_epochs, "
            f"got {config.experts.epochs}."
        )


def _learned(state: CondenseState) -> Learned:
    """Returns what is learned of a state.

    The logarithms of probabilities are their logits but for a constant in each label,
    and the gradient of a softmax does not change such a constant.
    """
    learned = {"images": state.images, "lr": state.student_lr}
    if state.labels is not None:
        learned["logits"] = jnp.log(jnp.maximum(state.labels, _LEAST))
    return learned


def _training_set(
    config: Config, learned: Learned, own_labels: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """Returns what students are trained on, `[n, H, W, D]`, and its labels."""
    images, factor = learned["images"], config.formation.factor
    if "logits" not in learned:
        return training_set(images, None, own_labels, factor)
    labels = jax.nn.softmax(learned["logits"])
    return training_set(images, labels, own_labels, factor)


def _descend(
    state: CondenseState, grads: Learned, optimiser: optax.GradientTransformation
) -> CondenseState:
    """Updates what is learned once, by its gradient."""
    learned = _learned(state)
    updates, opt_state = optimiser.update(grads, state.opt_state, learned)
    learned = optax.apply_updates(learned, updates)
    after = state.replace(
        images=learned["images"], student_lr=learned["lr"], opt_state=opt_state
    )
    if state.labels is None:
        return after
    is_image = jnp.any(state.labels > 0, axis=-1, keepdims=True)
    labels = jnp.where(is_image, jax.nn.softmax(learned["logits"]), 0)
    return after.replace(labels=labels)
