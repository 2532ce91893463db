"""The gradient, by images, of a function of the gradient by a network's parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dc_jax.devices.backend import fold_slices

# Images `[n, H, W, D]`, or a tree of arrays `[n, ...]` with what else is learned.
Learned = Any
# `(learned, slice_size, weights) -> gradient`, the mean over n images of their
# gradients by the parameters, with weights `[n]` or None.
MeanGradient = Callable[[Learned, int, jax.Array | None], Any]
# From such a gradient to a distance, `[]`, and its summands.
Distance = Callable[[Any], tuple[jax.Array, dict[str, jax.Array]]]
# So many slices are differentiated twice at once.
_MAX_SLICES = 4


def second_order(
    gradient: MeanGradient,
    distance: Distance,
    learned: Learned,
    weights: jax.Array | None,  # [n]
    *,
    slice_size: int,  # images at once; changes memory and speed only
) -> tuple[Learned, dict[str, jax.Array]]:
    """Returns the gradient of a distance by what is learned, and its summands."""
    num = _num(learned)
    if num > _MAX_SLICES * slice_size:
        return _in_slices(gradient, distance, learned, weights, slice_size)

    def loss(learned: Learned) -> tuple[jax.Array, dict[str, jax.Array]]:
        return distance(gradient(learned, num, weights))

    return jax.grad(loss, has_aux=True)(learned)


def _in_slices(gradient, distance, learned, weights, slice_size):
    """Computes the same by the chain rule, one slice after another.

    The gradient by the parameters is computed twice, but only a slice of the second
    order is in memory: an eighth at 50 images of 28x28 pixels on a CPU. Alone on one
    core that took 0.7 of the time; a whole outer step took the same on two. At 10
    images it was slower.
    """
    num = _num(learned)
    mean = gradient(learned, slice_size, weights)
    direction, distances = jax.grad(distance, has_aux=True)(mean)

    def part(learned: Learned, weights: jax.Array | None) -> jax.Array:
        """The share of a slice in the product of gradient and direction."""
        grads = gradient(learned, _num(learned), weights)
        products = jax.tree.map(jnp.vdot, grads, direction)
        return sum(jax.tree.leaves(products)) * (_num(learned) / num)

    def add(grads: Learned, batch: Any) -> Learned:
        places, *batch = batch
        return jax.tree.map(
            lambda whole, part: whole.at[places].set(part),
            grads,
            jax.grad(part)(*batch),
        )

    zeros = jax.tree.map(jnp.zeros_like, learned)
    batches = (jnp.arange(num), learned, weights)
    return fold_slices(add, zeros, batches, slice_size), distances


def _num(learned: Learned) -> int:
    return len(jax.tree.leaves(learned)[0])
