"""Learning a task without forgetting earlier tasks: losses and batches.

Castro et al., "End-to-End Incremental Learning", ECCV 2018: a network learns the new
images and a memory of the old images, while a loss keeps its outputs close to those of
the old network (distillation). Then it is fine-tuned on equally many images per class.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.training.full_data import read_images
from dc_jax.training.train import Recipe, TrainState, cross_entropy, train_batch


def train_distilled(
    recipe: Recipe,
    state: TrainState,
    old: dict[str, Any],
    is_old: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    weight: float,
    temperature: float,
) -> TrainState:
    """Updates a network once by the cross-entropy and the distillation loss.

    Args:
      recipe: of the training.
      state: the network and its optimiser.
      old: variables of the network that learned the earlier tasks.
      is_old: whether that network knows a class. Shape `[C]`.
      images: one batch, normalised. Shape `[n, H, W, D]`.
      labels: Shape `[n]`.
      weight: of the distillation loss.
      temperature: of the distillation loss.

    Returns:
      The updated state.
    """

    def loss(logits: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
        labels, old_logits = targets
        distilled = distillation(logits, old_logits, is_old, temperature)
        return cross_entropy(logits, labels) + weight * distilled

    _, old_logits = read_images(
        recipe.network,
        old,
        images,
        slice_size=recipe.slice_size,
        devices=recipe.devices,
    )
    recipe = dataclasses.replace(recipe, loss=loss)
    return train_plain(recipe, state, images, (labels, old_logits))


def train_plain(
    recipe: Recipe, state: TrainState, images: jax.Array, labels: Any
) -> TrainState:
    """Updates a network once by the loss of the recipe, without augmentation."""
    # The key is only for augmentation.
    return train_batch(recipe, state, images, labels, key=jax.random.key(0))[0]


def distillation(
    logits: jax.Array, old_logits: jax.Array, is_old: jax.Array, temperature: float
) -> jax.Array:
    """Returns the distillation loss of Castro et al.

    It is the cross-entropy of the softened outputs of both networks over the classes
    that the old network knows. To soften is to divide the logits by the temperature.

    Args:
      logits: Shape `[n, C]`.
      old_logits: Shape `[n, C]`.
      is_old: Shape `[C]`.
      temperature: above 0.

    Returns:
      Shape `[n]`.
    """

    def soften(logits: jax.Array) -> jax.Array:
        is_known = jnp.broadcast_to(is_old, logits.shape)
        # -inf times a probability of 0 would be NaN.
        return jax.nn.log_softmax(jnp.where(is_known, logits / temperature, -1e9))

    products = jnp.exp(soften(old_logits)) * soften(logits)
    return -jnp.sum(products, axis=-1)


def draw_per_class(
    labels: np.ndarray, num: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns the indices of `num` images per class, or of all if a class has fewer."""
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:num]
        for label in np.unique(labels)
    ]
    return np.concatenate(drawn)


def draw_batches(
    num: int, size: int, iterations: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields the indices of batches: all images in a random order, again and again.

    Args:
      num: number of images.
      size: of a batch; may exceed `num`.
      iterations: number of batches.
      rng: draws the orders.
    """
    waiting = np.empty(0, np.int64)
    for _ in range(iterations):
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(num)])
        yield waiting[:size]
        waiting = waiting[size:]
