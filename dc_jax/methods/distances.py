"""Distances between two sets of gradients, an equation a function.

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
    """Returns the distance between the gradients of one class and one network.

    Args:
      grads_syn: gradients on synthetic images.
      grads_real: gradients on real images; same structure.
      distance: `ours` (equations 9 and 10), `mse` or `cos` (the paper's ablation).

    Returns:
      The distance. Shape `[]`.

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
    with_paths = jax.tree.leaves_with_path(grads_syn)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in with_paths]
    syn, real = jax.tree.leaves(grads_syn), jax.tree.leaves(grads_real)
    pairs = dict(zip(names, zip(syn, real, strict=True), strict=True))
    if distance == "ours":
        is_vector = {name: a.ndim == 1 for name, (a, _) in pairs.items()}
        return {n: layer_distance(*p) for n, p in pairs.items() if not is_vector[n]}
    if distance == "mse":
        return {name: jnp.sum((a - b) ** 2) for name, (a, b) in pairs.items()}
    if distance == "cos":
        syn, real = _concatenate(syn)[:, None], _concatenate(real)[:, None]
        return {"all": 1 - _cosine(syn, real)[0]}
    raise UserError(
        f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}."
    )


def layer_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Equation 10: one minus the cosine, summed over the output units of a layer.

    Follows the authors' code in that vectors (biases and norm gains) count nothing.

    Args:
      a: gradient of one parameter. Shape `[..., O]`.
      b: the other gradient of the same parameter. Shape `[..., O]`.

    Returns:
      The distance. Shape `[]`.
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


def _concatenate(leaves: list[jax.Array]) -> jax.Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
