"""Average pooling and the scaled instance norm, with gradients of our own.

Both only pass over memory, which accelerators and CPUs wait for. JAX's gradient of a
pooling pads and adds what could be copied, and that of a norm reads its input more
often than needed. A TPU v5e would take 4.1 instead of 6.7 ms for the gradient of 256
images of 32x32 pixels by the compiler's count of cycles, and an H100 took 7 % less time
for the inner loop. On a CPU training takes as long as before; passes over 10,000 test
images took 4 and 11 % longer in two measurements.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5  # Added to variances.


def average_pool(x: jax.Array) -> jax.Array:
    """Returns the means of 2x2 windows. `[n, H, W, D]` -> `[n, H // 2, W // 2, D]`.

    An odd last row or column is left out. Reverse-mode differentiation only.
    """
    pool, _ = _pooling(*x.shape[1:3])
    return pool(x)


@functools.cache
def _pooling(height: int, width: int) -> tuple[Callable, Callable]:
    """Returns the pooling of images of one size, and its transpose."""
    rows, columns = height // 2, width // 2

    def add_windows(x: jax.Array) -> jax.Array:
        zero, window = jnp.zeros((), x.dtype), (1, 2, 2, 1)
        return lax.reduce_window(x, zero, lax.add, window, window, "VALID")

    def add_slices(x: jax.Array) -> jax.Array:
        n, _, _, channels = x.shape
        x = x[:, : 2 * rows, : 2 * columns]
        x = x.reshape(n, rows, 2, columns, 2, channels)
        x = x[:, :, 0] + x[:, :, 1]
        return x[:, :, :, 0] + x[:, :, :, 1]

    @jax.custom_vjp
    def pool(x: jax.Array) -> jax.Array:
        # Windows take a third more time on a CPU, and much less on a TPU.
        return lax.platform_dependent(x, cpu=add_slices, default=add_windows) / 4

    @jax.custom_vjp
    def spread(g: jax.Array) -> jax.Array:
        n, _, _, channels = g.shape
        shape = (n, rows, 2, columns, 2, channels)
        x = jnp.broadcast_to(g[:, :, None, :, None] / 4, shape)
        x = x.reshape(n, 2 * rows, 2 * columns, channels)
        rest = ((0, 0), (0, height - 2 * rows), (0, width - 2 * columns), (0, 0))
        return jnp.pad(x, rest)

    pool.defvjp(lambda x: (pool(x), None), lambda _, g: (spread(g),))
    spread.defvjp(lambda g: (spread(g), None), lambda _, u: (pool(u),))
    return pool, spread


@jax.custom_vjp
def normalise_channels(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns each channel of each image with mean 0 and a standard deviation `scale`.

    `[n, H, W, D]`, `[D]` -> `[n, H, W, D]`; `EPSILON` is added to the variance.
    Reverse-mode differentiation only.
    """
    output, _ = _forward(x, scale)
    return output


def _statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the centred x and 1 / its standard deviation, `[n, 1, 1, D]`."""
    centred = x - _channel_mean(x)
    return centred, lax.rsqrt(_channel_mean(centred * centred) + EPSILON)


def _channel_mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=(1, 2), keepdims=True)


def _forward(x, scale):
    centred, inverse = _statistics(x)
    scale = scale.reshape(1, 1, 1, -1)
    return centred * (inverse * scale), (centred, inverse, scale)


def _backward(saved, g):
    centred, inverse, scale = saved
    product = _channel_mean(g * centred)
    slope = centred * (inverse * inverse * product)
    x_grad = (inverse * scale) * (g - _channel_mean(g) - slope)
    num_pixels = g.shape[1] * g.shape[2]
    return x_grad, num_pixels * jnp.sum(inverse * product, axis=(0, 1, 2))


normalise_channels.defvjp(_forward, _backward)
