"""Distances between two sets of gradients, one function per equation.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021,
https://openreview.net/forum?id=mSAKhLYLSsl, section 3.3, and the authors' code where
the two differ.

Gradients are pytrees of flax parameters, whose last axis is the output unit: kernels
`[..., O]`, biases and norm gains `[O]`, layer norm gains `[H, W, O]`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dc_jax.config import DISTANCES
from dc_jax.errors import UserError

# Added to the product of the norms, as in the authors' code.
_EPSILON = 1e-6


def match_loss(grads_syn: Any, grads_real: Any, distance: str) -> jax.Array:
    """Equation 9: the distance `[]` of the gradients of one class and one network.

    `distance` is `ours` (equations 9 and 10), `mse` or `cos` (the paper's ablation).

    Raises:
      UserError: the distance is unknown.
    """
    return sum(match_distances(grads_syn, grads_real, distance).values())


def match_distances(
    grads_syn: Any, grads_real: Any, distance: str
) -> dict[str, jax.Array]:
    """Returns the summands of `match_loss`, each `[]`, by parameter.

    Without the parameters that count nothing. The one of `cos`, which is of all
    parameters together, is `all`.
    """
    syn, real = jax.tree.leaves(grads_syn), jax.tree.leaves(grads_real)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(grads_syn)
    ]
    pairs = dict(zip(names, zip(syn, real, strict=True), strict=True))
    if distance == "ours":
        return {n: layer_distance(a, b) for n, (a, b) in pairs.items() if a.ndim > 1}
    if distance == "mse":
        return {name: jnp.sum((a - b) ** 2) for name, (a, b) in pairs.items()}
    if distance == "cos":
        syn, real = (
            jnp.concatenate([leaf.reshape(-1) for leaf in leaves])[:, None]
            for leaves in (syn, real)
        )
        return {"all": 1 - _cosine(syn, real)[0]}
    raise UserError(
        f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}."
    )


def layer_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Equation 10: one minus the cosine, summed over the output units of a layer.

    The gradients of one parameter, twice `[..., O]`, to `[]`. Follows the authors' code
    in that vectors (biases and norm gains) count nothing.
    """
    if a.ndim == 1:
        return jnp.zeros((), a.dtype)
    rows_a, rows_b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return jnp.sum(1 - _cosine(rows_a, rows_b))


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """The cosine of each column of `a` with that of `b`. `[n, O]` -> `[O]`."""
    return jnp.sum(a * b, axis=0) / (_safe_norm(a) * _safe_norm(b) + _EPSILON)


def _safe_norm(x: jax.Array) -> jax.Array:
    """The norm over axis 0, whose gradient at zero is zero.

    A dead filter has an all-zero gradient, at which `jnp.linalg.norm` has the gradient
    NaN. A single `where` around the square root would multiply that NaN by zero.
    """
    square = jnp.sum(x * x, axis=0)
    is_positive = square > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, square, 1)), 0)
