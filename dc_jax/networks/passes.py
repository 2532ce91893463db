"""Average pooling and the scaled instance norm, with gradients of our own.

Both only pass over memory, which accelerators and CPUs wait for. JAX's gradient of a
pooling pads and adds what could be copied, and that of a norm reads its input more
often than needed. A TPU v5e would take 4.1 instead of 6.7 ms for the gradient of 256
images of 32x32 pixels by the compiler's count of cycles, and an H100 took 7 % less time
for the inner loop. On a CPU training takes as long as before.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

EPSILON = 1e-5  # Added to variances.


def average_pool(x: jax.Array) -> jax.Array:
    """Returns the means of 2x2 windows. `[n, H, W, D]` -> `[n, H // 2, W // 2, D]`.

    An odd last row or column is left out.
    """
    return _add.bind(x) / 4


def _add_slices(x: jax.Array) -> jax.Array:
    """Sums 2x2 windows: `[..., H, W, D]` -> `[..., H // 2, W // 2, D]`."""
    *rest, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    x = x[..., : 2 * rows, : 2 * columns, :]
    x = x.reshape(*rest, rows, 2, columns, 2, channels)
    x = x[..., 0, :, :, :] + x[..., 1, :, :, :]
    return x[..., 0, :] + x[..., 1, :]


def _add_windows(x: jax.Array) -> jax.Array:
    """Returns what `_add_slices` does."""
    window = (*(1,) * (x.ndim - 3), 2, 2, 1)
    zero = jnp.zeros((), x.dtype)
    return lax.reduce_window(x, zero, lax.add, window, window, "VALID")


def _copy_to_windows(g: jax.Array, *, height: int, width: int) -> jax.Array:
    """The transpose of the sum: `[..., H // 2, W // 2, D]` -> `[..., H, W, D]`."""
    *rest, rows, columns, channels = g.shape
    shape = (*rest, rows, 2, columns, 2, channels)
    x = jnp.broadcast_to(g[..., :, None, :, None, :], shape)
    x = x.reshape(*rest, 2 * rows, 2 * columns, channels)
    missing = ((0, height - 2 * rows), (0, width - 2 * columns), (0, 0))
    return jnp.pad(x, ((0, 0),) * len(rest) + missing)


def _linear(function: Callable, **by_platform: Callable) -> Primitive:
    """Returns a primitive: a linear function of images, lowered for each platform.

    `lax.platform_dependent` chooses too, but leaves a `case` around the function. With
    it, 10,000 test images took two CPU cores 7 and 16 % longer in two measurements.
    """
    primitive = Primitive(function.__name__.lstrip("_"))
    primitive.def_impl(function)
    primitive.def_abstract_eval(
        lambda x, **size: x.update(
            shape=jax.eval_shape(lambda x: function(x, **size), x).shape
        )
    )

    def batch(xs, axes, **size):
        return primitive.bind(jnp.moveaxis(xs[0], axes[0], 0), **size), 0

    batching.primitive_batchers[primitive] = batch
    for platform, lowered in {None: function, **by_platform}.items():
        lowering = mlir.lower_fun(lowered, multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)
    return primitive


# Windows take a third more time on a CPU, and much less on a TPU.
_add = _linear(_add_windows, cpu=_add_slices)
_copy = _linear(_copy_to_windows)


def _transpose_add(g: jax.Array, x: ad.UndefinedPrimal) -> list[jax.Array]:
    height, width = x.aval.shape[-3:-1]
    return [_copy.bind(g, height=height, width=width)]


ad.deflinear2(_add, _transpose_add)
ad.deflinear2(_copy, lambda g, _, **size: [_add.bind(g)])


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
