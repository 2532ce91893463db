"""Learning a task without forgetting those before: losses and batches.

Castro et al., "End-to-End Incremental Learning", ECCV 2018: a network learns the new
images and a memory of the old ones, while its outputs are held to what they were
(distillation); then it is fine-tuned on a balanced part.
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
    """Updates a network once, by the cross-entropy and the distillation loss.

    Args:
      recipe: how.
      state: the network.
      old: variables of the network that knows the tasks before.
      is_old: classes that it knows. Shape `[C]`.
      images: normalised, of one batch. Shape `[n, H, W, D]`.
      labels: Shape `[n]`.
      weight: of the distillation loss.
      temperature: of it.

    Returns:
      The network.
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
    """Updates a network once, by the loss of the recipe, without augmentation."""
    # The key is of the augmentation.
    return train_batch(recipe, state, images, labels, key=jax.random.key(0))[0]


def distillation(
    logits: jax.Array, old_logits: jax.Array, is_old: jax.Array, temperature: float
) -> jax.Array:
    """Returns the cross-entropy of softened outputs with the old network's.

    The distillation loss of Castro et al.: over the classes that the old network knows,
    with logits divided by the temperature.

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
        # Not -inf, of which the product with a probability of 0 were NaN.
        return jax.nn.log_softmax(jnp.where(is_known, logits / temperature, -1e9))

    products = jnp.exp(soften(old_logits)) * soften(logits)
    return -jnp.sum(products, axis=-1)


def draw_per_class(
    labels: np.ndarray, num: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns the indices of `num` images of each class, of all where it has fewer."""
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:num]
        for label in np.unique(labels)
    ]
    return np.concatenate(drawn)


def draw_batches(
    num: int, size: int, iterations: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields indices of batches: all images in a random order, again and again.

    Args:
      num: of images.
      size: of a batch, which may be of more than all images.
      iterations: how many batches.
      rng: consumed.
    """
    waiting = np.empty(0, np.int64)
    for _ in range(iterations):
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(num)])
        yield waiting[:size]
        waiting = waiting[size:]
