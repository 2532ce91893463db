"""3x3 convolutions with 16 multiplications for four outputs instead of 36.

The minimal filtering F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016, https://arxiv.org/abs/1509.09308, section 4.1. Each window
of 4x4 pixels (they are two pixels apart) is transformed to 16 numbers, and so is the
kernel. These are multiplied one by one (each time a matrix product over channels), and
the 16 products give 2x2 outputs. The result equals the direct convolution but for
rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]

# B^T, G and A^T of the paper.
_WINDOW = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def conv(x: jax.Array, w: jax.Array, pads: Pads) -> jax.Array:
    """A 3x3 convolution with stride 1.

    `[n, H, W, D]`, `[3, 3, D, O]` -> `[n, H', W', O]`. The pads are zeros before and
    after, of rows and columns; negative ones crop.
    """
    rows, columns = (x.shape[1 + i] + sum(pads[i]) - 2 for i in range(2))
    kernels = _transform(_KERNEL, [[w[i, j] for j in range(3)] for i in range(3)])
    products = [
        [window @ kernel for window, kernel in zip(*pair, strict=True)]
        for pair in zip(_windows(x, pads), kernels, strict=True)
    ]
    quads = _transform(_OUTPUT, products)  # 2 x 2 of [n, rows / 2, columns / 2, O]
    y = jnp.stack([jnp.stack(row, axis=3) for row in quads], axis=2)
    n, up, _, left, _, outputs = y.shape
    return y.reshape(n, 2 * up, 2 * left, outputs)[:, :rows, :columns]


def kernel_gradient(x: jax.Array, g: jax.Array, pads: Pads) -> jax.Array:
    """The derivative of `sum(conv(x, w, pads) * g)` with respect to w."""
    g = _pad(g, ((0, g.shape[1] % 2), (0, g.shape[2] % 2)))
    quads = [[g[:, i::2, j::2] for j in range(2)] for i in range(2)]
    products = [
        [
            window.reshape(-1, x.shape[-1]).T @ spread.reshape(-1, g.shape[-1])
            for window, spread in zip(*pair, strict=True)
        ]
        for pair in zip(_windows(x, pads), _transform(_OUTPUT.T, quads), strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _transform(_KERNEL.T, products)])


def _windows(x: jax.Array, pads: Pads) -> list[list[jax.Array]]:
    """The 4x4 windows of the images, transformed: 4 x 4 of `[n, H'/2, W'/2, D]`."""
    up, left = ((x.shape[1 + i] + sum(pads[i]) - 1) // 2 for i in range(2))
    missing = (2 * up + 2 - x.shape[1], 2 * left + 2 - x.shape[2])
    x = _pad(
        x, tuple((low, gap - low) for (low, _), gap in zip(pads, missing, strict=True))
    )
    pixels = [
        [x[:, i : i + 2 * up - 1 : 2, j : j + 2 * left - 1 : 2] for j in range(4)]
        for i in range(4)
    ]
    return _transform(_WINDOW, pixels)


def _transform(matrix: np.ndarray, grid: list[list[jax.Array]]) -> list[list]:
    """`matrix @ grid @ matrix.T` of a square grid of arrays."""
    half = [
        [_combine(row, column) for column in zip(*grid, strict=True)] for row in matrix
    ]
    return [[_combine(row, line) for row in matrix] for line in half]


def _combine(coefficients: np.ndarray, arrays: tuple[jax.Array, ...]) -> jax.Array:
    """The sum of coefficient times array, without those that are zero."""
    return sum(
        array if coefficient == 1 else float(coefficient) * array
        for coefficient, array in zip(coefficients, arrays, strict=True)
        if coefficient
    )


def _pad(x: jax.Array, pads: Pads) -> jax.Array:
    config = ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), config)
