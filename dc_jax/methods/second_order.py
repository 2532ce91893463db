"""The gradient, by images, of a function of the gradient by a network's parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dc_jax.devices.backend import fold_slices

# `(images, slice_size, weights) -> gradient`, the mean over n images `[n, H, W, D]` of
# their gradients by the parameters, with weights `[n]` or None.
MeanGradient = Callable[[jax.Array, int, jax.Array | None], Any]
# From such a gradient to a distance, `[]`, and its summands.
Distance = Callable[[Any], tuple[jax.Array, dict[str, jax.Array]]]
# So many slices are differentiated twice at once.
_MAX_SLICES = 4


def second_order(
    gradient: MeanGradient,
    distance: Distance,
    images: jax.Array,  # [n, H, W, D]
    weights: jax.Array | None,  # [n]
    *,
    slice_size: int,  # images at once; changes memory and speed only
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the gradient of a distance by the images, and the distance's summands."""
    if images.shape[0] > _MAX_SLICES * slice_size:
        return _in_slices(gradient, distance, images, weights, slice_size)

    def loss(images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return distance(gradient(images, images.shape[0], weights))

    return jax.grad(loss, has_aux=True)(images)


def _in_slices(gradient, distance, images, weights, slice_size):
    """Computes the same by the chain rule, one slice after another.

    The gradient by the parameters is computed twice, but only a slice of the second
    order is in memory: an eighth at 50 images of 28x28 pixels on a CPU. Alone on one
    core that took 0.7 of the time; a whole outer step took the same on two. At 10
    images it was slower.
    """
    num = images.shape[0]
    mean = gradient(images, slice_size, weights)
    direction, distances = jax.grad(distance, has_aux=True)(mean)

    def part(images: jax.Array, weights: jax.Array | None) -> jax.Array:
        """The share of a slice in the product of gradient and direction."""
        grads = gradient(images, images.shape[0], weights)
        products = jax.tree.map(jnp.vdot, grads, direction)
        return sum(jax.tree.leaves(products)) * (images.shape[0] / num)

    def add(grads: jax.Array, batch: Any) -> jax.Array:
        places, *batch = batch
        return grads.at[places].set(jax.grad(part)(*batch))

    batches = (jnp.arange(num), images, weights)
    return fold_slices(add, jnp.zeros_like(images), batches, slice_size), distances
