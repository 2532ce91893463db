"""The layers that the networks are made of, with PyTorch's defaults.

The functions here create flax submodules, so call them from a `nn.compact` method. They
differ from flax's own defaults where the authors' PyTorch code does: weights and biases
are drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), normalisation adds 1e-5 to the
variance and computes it in two passes.

Parameters take JAX's default float type: float32, or float64 under `jax_enable_x64`.
Layers compute in the type of their input and keep it; normalisations compute in JAX's
default float type.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.errors import UserError
from dc_jax.networks.convolution import ConvFn
from dc_jax.networks.passes import EPSILON, average_pool, normalise_channels

# From the name to the function, entry by entry.
ACTIVATIONS = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "sigmoid": nn.sigmoid,
    "swish": nn.swish,
}
NORMS = ("none", "batch", "layer", "instance", "group")
POOLINGS = ("none", "max", "average")
GROUPS = 4  # of the norm "group"

_BATCH_NORM_MOMENTUM = 0.1


def conv(
    x: jax.Array,
    features: int,
    kernel: int,
    *,
    padding: int,
    conv_fn: ConvFn,
    stride: int = 1,
    use_bias: bool = True,
) -> jax.Array:
    """A square convolution. `[n, H, W, D]` -> `[n, H', W', features]`.

    The kernel is its side in pixels, and the padding the zeros added on each of the
    four sides. `conv_fn` is called in place of `jax.lax.conv_general_dilated`.
    """
    init = uniform_init(kernel * kernel * x.shape[-1])
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        use_bias=use_bias,
        kernel_init=init,
        bias_init=init,
        dtype=x.dtype,
        param_dtype=float,
        conv_general_dilated=conv_fn,
    )(x)


def dense(x: jax.Array, features: int, name: str | None = None) -> jax.Array:
    """A linear layer. `[n, F]` -> `[n, features]`."""
    init = uniform_init(x.shape[-1])
    return nn.Dense(
        features,
        kernel_init=init,
        bias_init=init,
        dtype=x.dtype,
        param_dtype=float,
        name=name,
    )(x)


def uniform_init(fan_in: int) -> nn.initializers.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights and biases."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=float):
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


def norm(x: jax.Array, kind: str, *, train: bool) -> jax.Array:
    """One of `NORMS`, with a learned gain and bias. Shape `[n, H, W, D]` is kept.

    "layer" normalises each image over rows, columns and channels together, with a gain
    for every entry. "instance" normalises each channel of an image alone, and
    "group" normalises `GROUPS` groups of channels. Only "batch" reads `train`.
    """
    if kind == "none":
        return x
    return _norm(x.astype(float), kind, train).astype(x.dtype)


def _norm(x: jax.Array, kind: str, train: bool) -> jax.Array:
    shared = {"epsilon": EPSILON, "use_fast_variance": False, "param_dtype": float}
    if kind == "batch":
        return BatchNorm()(x, train)
    if kind == "layer":
        axes = (1, 2, 3)
        return nn.LayerNorm(reduction_axes=axes, feature_axes=axes, **shared)(x)
    if kind == "instance":
        return InstanceNorm()(x)
    if kind == "group":
        return nn.GroupNorm(num_groups=GROUPS, **shared)(x)
    raise UserError(f"norm must be one of {', '.join(NORMS)}, got {kind!r}.")


class InstanceNorm(nn.Module):
    """Instance normalisation: each channel of each image alone.

    It computes the same as `nn.InstanceNorm`. With that, the gradient of the paper's
    ConvNet took up to a third longer on a CPU.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, float)
        bias = self.param("bias", nn.initializers.zeros, shape, float)
        return normalise_channels(x, scale) + bias.reshape(1, 1, 1, -1)


class BatchNorm(nn.Module):
    """Batch normalisation as in PyTorch.

    A pass with `train=True` normalises by the statistics of the batch, and moves the
    running statistics (collection `batch_stats`) a tenth of the way to them. The
    running variance moves to the unbiased variance of the batch, unlike in flax's own
    module. Any other pass normalises by the running statistics, and keeps them.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, float)
        bias = self.param("bias", nn.initializers.zeros, shape, float)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, float)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, float)
        mean, var = running_mean.value, running_var.value
        lead = tuple(range(x.ndim - 1))
        if train:
            mean, var = jnp.mean(x, lead), jnp.var(x, lead)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                # PyTorch refuses one value per channel; here its variance is zero.
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += _BATCH_NORM_MOMENTUM * (mean - running_mean.value)
                running_var.value += _BATCH_NORM_MOMENTUM * (
                    unbiased - running_var.value
                )
        mean, var, scale, bias = (
            jnp.expand_dims(v, lead) for v in (mean, var, scale, bias)
        )
        return (x - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias


def local_response_norm(x: jax.Array) -> jax.Array:
    """Divides each channel by its neighbours, `[n, H, W, D]` -> `[n, H, W, D]`.

    PyTorch's `LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1)`: channel c by
    (k + alpha * m)**beta. Here m is the mean of the squares of channels c - 2 to c + 1;
    channels that do not exist count as 0. Computed in JAX's default float type.
    """
    square = jnp.square(x.astype(float))
    padded = jnp.pad(square, ((0, 0), (0, 0), (0, 0), (2, 1)))
    num = x.shape[-1]
    mean = sum(padded[..., i : i + num] for i in range(4)) / 4
    return (x.astype(float) * (1 + 0.001 / 9 * mean) ** -0.75).astype(x.dtype)


def pool(x: jax.Array, kind: str) -> jax.Array:
    """One of `POOLINGS` over 2x2 windows. `[n, H, W, D]` -> `[n, H // 2, W // 2, D]`.

    An odd last row or column is left out.
    """
    if kind == "none":
        return x
    if kind == "average":
        return average_pool(x)
    if kind == "max":
        # In slices, because the gradient of `flax.linen.max_pool` is 18 times slower on
        # a CPU.
        n, height, width, channels = x.shape
        rows, columns = height // 2, width // 2
        x = x[:, : 2 * rows, : 2 * columns]
        x = x.reshape(n, rows, 2, columns, 2, channels)
        x = _first_max(x[:, :, :, :, 0], x[:, :, :, :, 1])
        return _first_max(x[:, :, 0], x[:, :, 1])
    raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, got {kind!r}.")


def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """The maxima of 3x3 windows, stride 2, around every second row and column.

    `[n, H, W, D]` -> `[n, ceil(H / 2), ceil(W / 2), D]`.
    """
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    rows, columns = (size - 2 for size in x.shape[1:3])
    first, second, third = (x[:, :, i : i + columns : 2] for i in range(3))
    x = _first_max(_first_max(first, second), third)
    first, second, third = (x[:, i : i + rows : 2] for i in range(3))
    return _first_max(_first_max(first, second), third)


def _first_max(a: jax.Array, b: jax.Array) -> jax.Array:
    # Not jnp.maximum, which halves the gradient between equals: PyTorch gives it to the
    # first, and the flat background of a digit is full of equals.
    return jnp.where(a >= b, a, b)


def first_padding(x: jax.Array, padding: int) -> int:
    """The padding of a first convolution, which makes 28x28 images 32x32.

    For images of any other size it is that of the argument.
    """
    return padding + (padded_shape(x.shape[1:3])[0] - x.shape[1]) // 2


def padded_shape(image_shape: tuple[int, ...]) -> tuple[int, int]:
    """`(H, W)` of an image after the padding of `first_padding`."""
    height, width = image_shape[:2]
    return (32, 32) if (height, width) == (28, 28) else (height, width)
