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
from dc_jax.training import augment, cutmix


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy of every image, `[n]`.

    The logits are `[n, C]`, and the labels classes, `[n]`, or probabilities, `[n, C]`.
    """
    if labels.ndim == 2:
        return optax.softmax_cross_entropy(logits, labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns half the squared distance of outputs to centred labels, `[n]`.

    The outputs are `[n, C]`, and the labels classes, `[n]`, or one value for each
    class, `[n, C]`, from which 1 / C is subtracted.
    """
    num_classes = outputs.shape[-1]
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes)
    return jnp.sum((outputs - labels + 1 / num_classes) ** 2, axis=-1) / 2


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    network: nn.Module
    optimiser: optax.GradientTransformation  # Of its parameters.
    batch_size: int  # Images per step; the last batch of an epoch may be smaller.
    # How many images are differentiated at once: the gradient of a batch is accumulated
    # over slices. Changes memory and speed only.
    slice_size: int
    augmentation: str = "none"  # See `augment`; drawn anew for every image and step.
    cutmix: float = 0.0  # How likely a batch is mixed, see `cutmix`.
    # From the epochs that were trained, also fractions, to what the updates of the
    # optimiser are multiplied by; None for 1.
    schedule: Callable[[jax.Array], jax.Array] | None = None
    devices: Axis = WHOLE  # That share the images of a batch.
    # From logits `[n, C]` and labels to the loss of every image, `[n]`. With another
    # loss than the default, `labels` may be any tree of arrays `[n, ...]`.
    loss: Callable[[jax.Array, Any], jax.Array] = cross_entropy


class TrainState(NamedTuple):
    """A network in training."""

    variables: dict[str, Any]  # `params`, and `batch_stats` if there is batch norm.
    opt_state: optax.OptState
    step: jax.Array  # [] updates so far


def init_state(recipe: Recipe, variables: dict[str, Any]) -> TrainState:
    """Returns the state before the first update."""
    opt_state = recipe.optimiser.init(variables["params"])
    return TrainState(variables, opt_state, jnp.zeros((), jnp.int32))


def train(
    recipe: Recipe,
    state: TrainState,
    images: jax.Array,  # [n, H, W, D], normalised, as in all functions here
    labels: jax.Array,  # [n], or [n, C] probabilities
    *,
    epochs: int | jax.Array,  # passes over the images in all; may be traced
    done: int | jax.Array = 0,  # of these, how many were made before; likewise
    key: jax.Array,
) -> TrainState:
    """Trains a network for some epochs, each in a new random order.

    Trained in several calls, a network is the same bit for bit.
    """

    def epoch(index: jax.Array, state: TrainState) -> TrainState:
        order_key, augment_key = jax.random.split(jax.random.fold_in(key, index))
        order = jax.random.permutation(order_key, labels.shape[0])
        return train_epoch(recipe, state, images, labels, order=order, key=augment_key)

    return jax.lax.fori_loop(done, epochs, epoch, state)


def train_epoch(
    recipe: Recipe,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    order: jax.Array,  # [n], the images in the order of this epoch
    key: jax.Array,  # of the augmentation
) -> TrainState:
    """Trains a network for one epoch."""

    def update(state: TrainState, batch: jax.Array) -> TrainState:
        state, _ = train_batch(
            recipe, state, images[batch], labels[batch], key=key, num=len(order)
        )
        return state

    return fold_slices(update, state, order, recipe.batch_size)


def train_batch(
    recipe: Recipe,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,  # of the augmentation, of this and other batches
    num: int | None = None,  # images of an epoch, which a schedule needs
) -> tuple[TrainState, jax.Array]:
    """Updates a network once, with a batch of n images.

    Also returns the class that it predicted for each image before, `[n]`.
    """
    key = jax.random.fold_in(key, state.step)
    images = augment.augment(key, images, recipe.augmentation)
    if recipe.cutmix:
        images, labels = cutmix.mix(key, images, labels, recipe.cutmix)
        recipe = dataclasses.replace(recipe, loss=cutmix.mixed(recipe.loss))
    grads, variables, predictions = _train_gradient(
        recipe, state.variables, images, labels
    )
    params = variables["params"]
    updates, opt_state = recipe.optimiser.update(grads, state.opt_state, params)
    if recipe.schedule:
        factor = recipe.schedule(state.step / -(-num // recipe.batch_size))
        updates = jax.tree.map(lambda leaf: factor * leaf, updates)
    variables = {**variables, "params": optax.apply_updates(params, updates)}
    return TrainState(variables, opt_state, state.step + 1), predictions


def mean_gradient(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    slice_size: int,  # images at once; changes memory and speed only
    weights: jax.Array | None = None,  # [n], of the cross-entropies; None for 1
) -> dict[str, Any]:
    """Returns the gradient of the mean cross-entropy with respect to the parameters.

    Batch norm, if there is any, uses its running statistics.
    """
    loss = cross_entropy
    if weights is not None:
        labels, loss = (labels, weights), _weighted_cross_entropy
    grads, _ = _gradient_and_predictions(
        network, variables, images, labels, slice_size=slice_size, loss=loss
    )
    return grads


def _gradient_and_predictions(
    network, variables, images, labels, *, slice_size, loss, devices=WHOLE
):
    """Returns the gradient of a mean loss, and the predicted classes, `[n]`.

    The devices share the images.
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
    carry, batches = (zeros, jnp.zeros_like(places)), (places, images, labels, counts)
    total, predictions = fold_slices(add, carry, batches, slice_size)
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
        grads, predictions = _gradient_and_predictions(
            network,
            variables,
            images,
            labels,
            slice_size=recipe.slice_size,
            loss=recipe.loss,
            devices=recipe.devices,
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
