"""CutMix: a rectangle of each image is replaced by that of another image of its batch.

Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", ICCV 2019, https://arxiv.org/abs/1905.04899. The label of an
image is mixed in proportion to the areas. As in the authors' code one rectangle is
drawn for a batch, and its area is uniform in [0, 1] before it is cut at the edges.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# The label of each image, that of the image it was mixed with, and the share of its
# own, [n]. Labels are arrays [n, ...].
Mixed = tuple[jax.Array, jax.Array, jax.Array]
# Folded into a key that others use, too.
_STREAM = 2**31


def mix(
    key: jax.Array, images: jax.Array, labels: jax.Array, probability: float
) -> tuple[jax.Array, Mixed]:
    """Mixes a batch of images `[n, H, W, D]` with a probability.

    Otherwise the images are as they were, and the share of their labels is 1.
    """
    keys = jax.random.split(jax.random.fold_in(key, _STREAM), 3)
    others = jax.random.permutation(keys[0], len(images))
    is_mixed = jax.random.bernoulli(keys[1], probability)
    is_other = draw_box(keys[2], images.shape[1:3]) & is_mixed
    share = jnp.full(len(images), 1 - jnp.mean(is_other))
    images = jnp.where(is_other[:, :, None], images[others], images)
    return images, (labels, labels[others], share)


def draw_box(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns which pixels are in a random rectangle, `[H, W]` bool.

    It has the proportions of the image, and its centre is uniform in the image, whose
    edges cut it.
    """
    area_key, centre_key = jax.random.split(key)
    side = jnp.sqrt(jax.random.uniform(area_key))
    centre = jax.random.uniform(centre_key, (2,))
    rows, columns = (
        jnp.abs((jnp.arange(num) + 0.5) / num - middle) < side / 2
        for num, middle in zip(shape, centre, strict=True)
    )
    return rows[:, None] & columns[None, :]


def mixed(
    loss: Callable[[jax.Array, Any], jax.Array],
) -> Callable[[jax.Array, Mixed], jax.Array]:
    """Returns a loss for mixed labels, by a loss of logits `[n, C]` and labels."""

    def of_mixed(logits: jax.Array, labels: Mixed) -> jax.Array:
        own, others, share = labels
        return share * loss(logits, own) + (1 - share) * loss(logits, others)

    return of_mixed
