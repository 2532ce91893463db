"""Trains a network on a set of images, as one scan.

The inner loop of condensation and the evaluation share it. Everything is written for
one network; `batched` runs it over many.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dc_jax.devices.backend import fold_slices
from dc_jax.devices.layout import WHOLE, Axis
from dc_jax.training import augment


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy of every image. `[n, C]`, `[n]` -> `[n]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
      network: the module.
      optimiser: of its parameters.
      batch_size: images per step; the last batch of an epoch may be smaller.
      slice_size: how many images are differentiated at once: the gradient of a batch
        is accumulated over slices. Changes memory and speed only.
      augmentation: strategy of `augment`, drawn anew for every image and step.
      devices: that share the images of a batch.
      loss: takes logits `[n, C]` and labels, and returns the loss of every image,
        `[n]`. With another loss than the default, `labels` may be any tree of arrays
        `[n, ...]`.
    """

    network: nn.Module
    optimiser: optax.GradientTransformation
    batch_size: int
    slice_size: int
    augmentation: str = "none"
    devices: Axis = WHOLE
    loss: Callable[[jax.Array, Any], jax.Array] = cross_entropy


class TrainState(NamedTuple):
    """A network in training.

    Attributes:
      variables: `params`, and `batch_stats` if there is batch norm.
      opt_state: of the optimiser.
      step: updates so far. Shape `[]`.
    """

    variables: dict[str, Any]
    opt_state: optax.OptState
    step: jax.Array


def init_state(recipe: Recipe, variables: dict[str, Any]) -> TrainState:
    """Returns the state before the first update."""
    opt_state = recipe.optimiser.init(variables["params"])
    return TrainState(variables, opt_state, jnp.zeros((), jnp.int32))


def train(
    recipe: Recipe,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    epochs: int | jax.Array,
    key: jax.Array,
) -> TrainState:
    """Trains a network for some epochs, each in a new random order.

    Args:
      recipe: how.
      state: the network to begin with.
      images: normalised. Shape `[n, H, W, D]`.
      labels: Shape `[n]`.
      epochs: passes over the images; may be traced.
      key: consumed.

    Returns:
      The trained network.
    """

    def epoch(index: jax.Array, state: TrainState) -> TrainState:
        order_key, augment_key = jax.random.split(jax.random.fold_in(key, index))
        order = jax.random.permutation(order_key, labels.shape[0])
        return train_epoch(recipe, state, images, labels, order=order, key=augment_key)

    return jax.lax.fori_loop(0, epochs, epoch, state)


def train_epoch(
    recipe: Recipe,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    order: jax.Array,
    key: jax.Array,
) -> TrainState:
    """Trains a network for one epoch.

    Args:
      recipe: how.
      state: the network to begin with.
      images: normalised. Shape `[n, H, W, D]`.
      labels: Shape `[n]`.
      order: the images in the order of this epoch. Shape `[n]`.
      key: of the augmentation; consumed.

    Returns:
      The trained network.
    """

    def update(state: TrainState, batch: jax.Array) -> TrainState:
        state, _ = train_batch(recipe, state, images[batch], labels[batch], key=key)
        return state

    return fold_slices(update, state, order, recipe.batch_size)


def train_batch(
    recipe: Recipe,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """Updates a network once.

    Args:
      recipe: how.
      state: the network to begin with.
      images: normalised, of one batch. Shape `[n, H, W, D]`.
      labels: Shape `[n]`.
      key: of the augmentation, of this and other batches.

    Returns:
      The network, and the class it predicted for each image before. Shape `[n]`.
    """
    images = augment.augment(
        jax.random.fold_in(key, state.step), images, recipe.augmentation
    )
    grads, variables, predictions = _train_gradient(
        recipe, state.variables, images, labels
    )
    params = variables["params"]
    updates, opt_state = recipe.optimiser.update(grads, state.opt_state, params)
    variables = {**variables, "params": optax.apply_updates(params, updates)}
    return TrainState(variables, opt_state, state.step + 1), predictions


def mean_gradient(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    slice_size: int,
    devices: Axis = WHOLE,
    weights: jax.Array | None = None,
) -> dict[str, Any]:
    """Returns the gradient of the mean cross-entropy with respect to the parameters.

    Batch norm, if there is any, uses its running statistics.

    Args:
      network: the module.
      variables: of the network.
      images: normalised. Shape `[n, H, W, D]`.
      labels: Shape `[n]`.
      slice_size: images at once. Changes memory and speed only.
      devices: that share the images.
      weights: what each cross-entropy is multiplied by; None for 1. Shape `[n]`.

    Returns:
      A tree like `variables["params"]`.
    """
    loss = cross_entropy
    if weights is not None:
        labels, loss = (labels, weights), _weighted_cross_entropy
    grads, _ = gradient_and_predictions(
        *(network, variables, images, labels),
        slice_size=slice_size,
        devices=devices,
        loss=loss,
    )
    return grads


def gradient_and_predictions(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    slice_size: int,
    devices: Axis = WHOLE,
    loss: Callable[[jax.Array, Any], jax.Array] = cross_entropy,
) -> tuple[dict[str, Any], jax.Array]:
    """Returns what `mean_gradient` does, and the predicted classes, `[n]`.

    The loss may be another, see `Recipe`.
    """
    num = images.shape[0]
    mine, counts = devices.part(num)
    if devices.size > 1:
        images, labels = jax.tree.map(lambda leaf: leaf[mine], (images, labels))

    def sum_of_losses(params, images, labels, counts):
        logits = network.apply({**variables, "params": params}, images)
        losses = jnp.where(counts, loss(logits, labels), 0)
        return jnp.sum(losses), jnp.argmax(logits, axis=-1)

    def add(carry, batch):
        total, predictions = carry
        places, *batch = batch
        grads, predicted = jax.grad(sum_of_losses, has_aux=True)(
            variables["params"], *batch
        )
        total = jax.tree.map(jnp.add, total, grads)
        return total, predictions.at[places].set(predicted)

    zeros = jax.tree.map(jnp.zeros_like, variables["params"])
    places = jnp.arange(len(images))
    total, predictions = fold_slices(
        add,
        (zeros, jnp.zeros_like(places)),
        (places, images, labels, counts),
        slice_size,
    )
    grads = jax.tree.map(lambda leaf: leaf / num, devices.sum(total))
    return grads, devices.gather(predictions, num)


def _weighted_cross_entropy(
    logits: jax.Array, labels_and_weights: tuple[jax.Array, jax.Array]
) -> jax.Array:
    labels, weights = labels_and_weights
    return weights * cross_entropy(logits, labels)


def _train_gradient(recipe, variables, images, labels):
    """Returns gradient of a batch, variables with new statistics, and predictions."""
    network = recipe.network
    if "batch_stats" not in variables:
        grads, predictions = gradient_and_predictions(
            network,
            variables,
            images,
            labels,
            slice_size=recipe.slice_size,
            devices=recipe.devices,
            loss=recipe.loss,
        )
        return grads, variables, predictions

    def loss(params):  # Not in slices: batch norm needs the whole batch.
        logits, updated = network.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        loss = jnp.mean(recipe.loss(logits, labels))
        return loss, (updated, jnp.argmax(logits, axis=-1))

    grads, (updated, predictions) = jax.grad(loss, has_aux=True)(variables["params"])
    return grads, {**variables, **updated}, predictions
