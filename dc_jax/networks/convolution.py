"""Convolutions, and the choice between their implementations.

XLA's CPU backend canonicalises convolutions only in a program's entry computation.
Inside `scan`, `map`, `while` and `cond`, the gradients that JAX makes of a convolution
(in other layouts than NHWC/HWIO) become a scalar loop, about fifty times slower:
https://github.com/jax-ml/jax/issues/12868. `trilinear_conv` writes those gradients as
plain NHWC/HWIO convolutions, to every order of differentiation. If they are 3x3
convolutions with stride 1, `winograd` computes them with fewer multiplications. GPUs
have `mapped_conv`, and TPUs the native convolution.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dc_jax.errors import UserError
from dc_jax.networks import winograd
from dc_jax.networks.mapped import mapped_conv

ConvFn = Callable[..., jax.Array]
Pads = tuple[tuple[int, int], tuple[int, int]]

_NHWC = ("NHWC", "HWIO", "NHWC")
# Winograd's algorithm takes half the time on outputs down to 4x4 pixels, and three
# times as long to compile: 8 s for the paper's ConvNet.
_MIN_WINOGRAD_PIXELS = 16
# With this few input channels a matrix product over patches beats the convolution.
_MAX_PATCH_CHANNELS = 4


def make_conv_fn(
    implementation: str | None = None, platform: str | None = None
) -> ConvFn:
    """Returns a stand-in for `lax.conv_general_dilated`, for `nn.Conv` to call.

    An implementation is `native`, `mapped`, `trilinear`, or `winograd`, which is
    `trilinear` with Winograd's algorithm where that applies. None is the best one on
    the platform, `cpu`, `gpu` or `tpu`; None for JAX's default.
    """
    platform = platform or jax.default_backend()
    return _IMPLEMENTATIONS[implementation or default_implementation(platform)]


def default_implementation(platform: str) -> str:
    """Returns the best implementation on `cpu`, `gpu` or `tpu`."""
    return {"cpu": "winograd", "gpu": "mapped"}.get(platform, "native")


def _conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,  # always NHWC/HWIO
    feature_group_count: int = 1,
    precision: Any = None,  # always jax_default_matmul_precision
    *,
    conv: Callable[..., jax.Array],
) -> jax.Array:
    """The part of `lax.conv_general_dilated` that this project's networks use.

    It calls `conv(x, w, strides, pads)`.
    """
    dilations = {*(lhs_dilation or ()), *(rhs_dilation or ())}
    if feature_group_count != 1 or dilations - {1}:
        raise UserError("This convolution has no groups and no dilation.")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            lhs.shape[1:3], rhs.shape[:2], window_strides, padding
        )
    pads = tuple((int(low), int(high)) for low, high in padding)
    strides = tuple(int(stride) for stride in window_strides)
    return conv(lhs, rhs, strides, pads)


def _cpu_conv(
    x: jax.Array, w: jax.Array, strides: tuple[int, int], pads: Pads, *, fast: bool
) -> jax.Array:
    """Returns the convolution by patches where a CPU runs that faster."""
    is_swapped = _is_swapped(x.shape[1:3], w.shape[:2], strides, pads)
    if x.shape[-1] <= _MAX_PATCH_CHANNELS or is_swapped:
        return patches_conv(x, w, strides, pads)
    rows, columns = (x.shape[1 + i] + sum(pads[i]) - 2 for i in range(2))
    fast = fast and rows * columns >= _MIN_WINOGRAD_PIXELS
    return trilinear_conv(x, w, strides, pads, fast=fast)


def _is_swapped(
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    pads: Pads,
) -> bool:
    """Whether XLA swaps image and kernel, in a convolution or its gradient.

    It does if the kernel is the larger one. The swapped convolution becomes a scalar
    loop: a 3x3 convolution of 512 channels took 170 ms on 10 images of 2x2 pixels, and
    11 ms on 10 images of 4x4 pixels.
    """
    outputs = [
        (image[i] + sum(pads[i]) - kernel[i]) // strides[i] + 1 for i in range(2)
    ]
    return math.prod(kernel) > min(math.prod(image), math.prod(outputs))


# Made once: networks are equal, and their programs are reused, only if their `conv_fn`
# is the same object.
_IMPLEMENTATIONS = {
    "native": lax.conv_general_dilated,
    "mapped": functools.partial(_conv_general_dilated, conv=mapped_conv),
    "trilinear": functools.partial(
        _conv_general_dilated, conv=functools.partial(_cpu_conv, fast=False)
    ),
    "winograd": functools.partial(
        _conv_general_dilated, conv=functools.partial(_cpu_conv, fast=True)
    ),
}


def patches_conv(
    x: jax.Array, w: jax.Array, strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """A convolution as one matrix product over the patches of the image.

    The arguments are those of `trilinear_conv`.
    """
    height, width, channels, outputs = w.shape
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    # How many a slice spans, with those that it skips.
    rows = (x.shape[1] - height) // strides[0] * strides[0] + 1
    columns = (x.shape[2] - width) // strides[1] * strides[1] + 1
    num = x.shape[0]
    shifted = [
        lax.slice(
            x, (0, i, j, 0), (num, i + rows, j + columns, channels), (1, *strides, 1)
        )
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.concatenate(shifted, axis=-1)  # [n, H', W', h * w * D]
    flat = patches.reshape(-1, height * width * channels)
    y = matmul(flat, w.reshape(height * width * channels, outputs))
    return y.reshape(*patches.shape[:3], outputs)


@jax.custom_vjp
def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b` of two matrices, whose gradients are such products to every order.

    JAX would compute the gradient of `b` as the transpose of `g.T @ a`. The CPU backend
    then first copies g, the larger array, and the first layer took twice as long.
    """
    return a @ b


def _matmul_bwd(factors, g):
    a, b = factors
    return matmul(g, b.T), matmul(a.T, g)


matmul.defvjp(lambda a, b: (a @ b, (a, b)), _matmul_bwd)


def trilinear_conv(
    x: jax.Array,  # images, [n, H, W, D]
    w: jax.Array,  # kernel, [h, w, D, O]
    strides: tuple[int, int],  # of rows and columns
    pads: Pads,  # zeros before and after, of rows and columns
    *,
    fast: bool = False,  # whether `winograd` computes 3x3 convolutions with stride 1
) -> jax.Array:  # [n, H', W', O]
    """A convolution whose gradients are NHWC/HWIO convolutions to every order.

    For images x, kernel w and an output cotangent g, the sum of `conv(x, w) * g` is
    linear in each of the three. Its derivatives with respect to g, x and w are
    `_output`, `_to_image` and `_to_kernel`, and the gradient of each consists of the
    other two. Reverse-mode differentiation only.
    """
    image, kernel = x.shape[1:3], w.shape[:2]
    fast = fast and kernel == (3, 3) and strides == (1, 1)
    return _output(x, w, _Geometry(strides, pads, image, kernel, fast))


class _Geometry(NamedTuple):
    strides: tuple[int, int]
    pads: Pads
    image: tuple[int, int]  # rows and columns, as of the kernel
    kernel: tuple[int, int]
    fast: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _output(x, w, geometry):
    strides, pads = geometry.strides, geometry.pads
    if geometry.fast:
        return winograd.conv(x, w, pads)
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=_NHWC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _to_image(g, w, geometry):
    """The derivative with respect to the image: a convolution with the flipped w."""
    strides, pads, image, kernel, fast = geometry
    around = []
    for i in range(2):
        dilated = (g.shape[1 + i] - 1) * strides[i] + 1
        low = kernel[i] - 1 - pads[i][0]
        around.append((low, image[i] + kernel[i] - 1 - dilated - low))
    flipped = jnp.swapaxes(lax.rev(w, (0, 1)), 2, 3)
    if fast:
        return winograd.conv(g, flipped, tuple(around))
    return lax.conv_general_dilated(
        g, flipped, (1, 1), around, lhs_dilation=strides, dimension_numbers=_NHWC
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _to_kernel(x, g, geometry):
    """The derivative with respect to the kernel: x with g, the batch as channels."""
    strides, pads, image, kernel, fast = geometry
    if fast:
        return winograd.kernel_gradient(x, g, pads)
    around = []
    for i in range(2):
        dilated = (g.shape[1 + i] - 1) * strides[i] + 1
        low = pads[i][0]
        around.append((low, kernel[i] + dilated - 1 - image[i] - low))
    out = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        around,
        rhs_dilation=strides,
        dimension_numbers=_NHWC,
    )
    return out.transpose(1, 2, 0, 3)


def _keep(function):
    """The forward rule of all three: keep both factors."""
    return lambda a, b, geometry: (function(a, b, geometry), (a, b))


def _output_bwd(geometry, factors, g):
    x, w = factors
    return _to_image(g, w, geometry), _to_kernel(x, g, geometry)


def _to_image_bwd(geometry, factors, u):
    g, w = factors
    return _output(u, w, geometry), _to_kernel(u, g, geometry)


def _to_kernel_bwd(geometry, factors, v):
    x, g = factors
    return _to_image(g, v, geometry), _output(x, v, geometry)


_output.defvjp(_keep(_output), _output_bwd)
_to_image.defvjp(_keep(_to_image), _to_image_bwd)
_to_kernel.defvjp(_keep(_to_kernel), _to_kernel_bwd)
