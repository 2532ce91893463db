"""How many images a network classifies rightly."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.devices.backend import fold_slices


def accuracy(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    slice_size: int,
) -> jax.Array:
    """Returns the fraction of images that are classified correctly, `[]`."""
    counts = confusion(network, variables, images, labels, slice_size=slice_size)
    return jnp.trace(counts) / labels.shape[0]


def confusion(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,  # [n, H, W, D], normalised
    labels: jax.Array,  # [n]
    *,
    slice_size: int,  # images at once; changes memory and speed only
) -> jax.Array:  # [C, C], int32
    """Returns the confusion matrix: rows are true classes, columns predicted ones."""

    def predict(images: jax.Array) -> jax.Array:
        return network.apply(variables, images)

    def count(counts, batch):
        images, labels = batch
        predictions = jnp.argmax(predict(images), axis=-1)
        return counts.at[labels, predictions].add(1)

    num_classes = jax.eval_shape(predict, images[:1]).shape[-1]
    counts = jnp.zeros((num_classes, num_classes), jnp.int32)
    return fold_slices(count, counts, (images, labels), slice_size)
