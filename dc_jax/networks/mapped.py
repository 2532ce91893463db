"""Convolutions for GPUs, which keep their form when networks or classes are mapped.

`jax.vmap` over networks turns the gradient of a kernel into a forward convolution whose
window is as large as the image. cuDNN runs that slowly: on an H100, 50 epochs of five
networks took 601 ms, with the functions below 145 ms. For images x, kernel w and an
output cotangent g, the sum of `conv(x, w) * g` is linear in each of the three. Its
derivatives are the three functions here, so they are closed under differentiation to
every order; and each has a rule of its own for `jax.vmap`:

- mapped images join the batch of one convolution;
- mapped kernels, and both factors of a kernel's gradient, become the groups of one
  convolution, or the transpose of one, for which cuDNN has kernels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

Pads = tuple[tuple[int, int], tuple[int, int]]
_NHWC = ("NHWC", "HWIO", "NHWC")


def mapped_conv(
    x: jax.Array, w: jax.Array, strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """A convolution, `[n, H, W, D]` and `[h, w, D, O]` -> `[n, H', W', O]`.

    Args:
      x: images.
      w: kernel.
      strides: of rows and columns.
      pads: zeros before and after, of rows and columns.

    Returns:
      The output. Reverse-mode differentiation only.
    """
    output, _, _ = _functions(strides, pads, x.shape[1:3], w.shape[:2])
    return output(x, w)


@functools.cache
def _functions(
    strides: tuple[int, int],
    pads: Pads,
    image: tuple[int, int],
    kernel: tuple[int, int],
) -> tuple[Callable[..., jax.Array], ...]:
    """Returns the three functions of one geometry, each the derivative of another."""

    def conv(x: jax.Array, w: jax.Array, groups: int = 1) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            w,
            strides,
            pads,
            dimension_numbers=_NHWC,
            feature_group_count=groups,
        )

    def to_image(g, w, groups=1):
        shape = (g.shape[0], *image, groups * w.shape[2])
        x = jax.ShapeDtypeStruct(shape, g.dtype)
        return jax.linear_transpose(lambda x: conv(x, w, groups), x)(g)[0]

    def to_kernel(x, g, groups=1):
        shape = (*kernel, x.shape[3] // groups, g.shape[3])
        w = jax.ShapeDtypeStruct(shape, g.dtype)
        return jax.linear_transpose(lambda w: conv(x, w, groups), w)(g)[0]

    output, to_image, to_kernel = (
        jax.custom_vjp(_with_rule(function, shares_second))
        for function, shares_second in (
            (conv, True),
            (to_image, True),
            (to_kernel, False),
        )
    )
    output.defvjp(
        lambda x, w: (output(x, w), (x, w)),
        lambda saved, g: (to_image(g, saved[1]), to_kernel(saved[0], g)),
    )
    to_image.defvjp(
        lambda g, w: (to_image(g, w), (g, w)),
        lambda saved, u: (output(u, saved[1]), to_kernel(u, saved[0])),
    )
    to_kernel.defvjp(
        lambda x, g: (to_kernel(x, g), (x, g)),
        lambda saved, v: (to_image(saved[1], v), output(saved[0], v)),
    )
    return output, to_image, to_kernel


def _with_rule(
    function: Callable[..., jax.Array], shares_second: bool
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `function(a, b)` with its rule for `jax.vmap`.

    Args:
      function: of two arrays and a number of groups.
      shares_second: whether all of a batch `a` share one `b`, so that a mapped `a` is a
        larger batch.
    """

    @custom_vmap
    def one(a, b):
        return function(a, b)

    @custom_vmap
    def groups(a, b):  # [G, ...], [G, ...] -> [G, ...]
        num = a.shape[0]
        return _split(function(_join(a), _join(b), num), num)

    @one.def_vmap
    def rule(size, is_mapped, a, b):
        if shares_second and not is_mapped[1]:
            out = one(a.reshape(-1, *a.shape[2:]), b)
            return out.reshape(size, -1, *out.shape[1:]), True
        return groups(*_broadcast(size, is_mapped, a, b)), True

    @groups.def_vmap
    def rule_of_groups(size, is_mapped, a, b):
        a, b = _broadcast(size, is_mapped, a, b)
        out = groups(a.reshape(-1, *a.shape[2:]), b.reshape(-1, *b.shape[2:]))
        return out.reshape(size, -1, *out.shape[1:]), True

    return one


def _broadcast(size: int, is_mapped: Any, *arrays: jax.Array) -> list[jax.Array]:
    """Returns arrays that all have the mapped axis, `[size, ...]`."""
    return [
        array if mapped else jnp.broadcast_to(array, (size, *array.shape))
        for array, mapped in zip(arrays, is_mapped, strict=True)
    ]


def _join(array: jax.Array) -> jax.Array:
    """Makes the groups, the first axis, part of the channels, the last.

    `[G, a, b, c, d]` -> `[a, b, c, G * d]`.
    """
    array = jnp.moveaxis(array, 0, 3)
    return array.reshape(*array.shape[:3], -1)


def _split(array: jax.Array, num: int) -> jax.Array:
    """Undoes `_join`. `[a, b, c, G * d]` -> `[G, a, b, c, d]`."""
    return jnp.moveaxis(array.reshape(*array.shape[:3], num, -1), 3, 0)
