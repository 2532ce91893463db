"""The networks that are one chain of layers: all but ConvNets and ResNets.

They are those of the authors, who have AlexNet and VGG-11 in small and with one linear
layer. AlexCifarNet is the small AlexNet of https://github.com/SsnL/dataset-distillation
(networks.py) for CIFAR-10, on which the two methods are compared.
"""

import flax.linen as nn
import jax

from dc_jax.networks import layers
from dc_jax.networks.convolution import ConvFn

# Of each convolution: channels, side of the window, whether a pooling follows.
ALEXNET = (
    (128, 5, True),
    (192, 5, True),
    (256, 3, False),
    (192, 3, False),
    (192, 3, True),
)
VGG11 = (
    (64, 3, True),
    (128, 3, True),
    (256, 3, False),
    (256, 3, True),
    (512, 3, False),
    (512, 3, True),
    (512, 3, False),
    (512, 3, True),
)


class Convolutions(nn.Module):
    """ReLUs of convolutions. `[n, H, W, D]` -> `[n, H / 2^p, W / 2^p, channels]`."""

    conv_fn: ConvFn
    table: tuple[tuple[int, int, bool], ...]  # `ALEXNET` or `VGG11`, with p poolings
    norm: str  # one of `layers.NORMS`, after every convolution

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for i, (width, kernel, is_pooled) in enumerate(self.table):
            padding = kernel // 2
            if i == 0:
                padding = layers.first_padding(x, padding)
            x = layers.conv(x, width, kernel, padding=padding, conv_fn=self.conv_fn)
            x = nn.relu(layers.norm(x, self.norm, train=train))
            if is_pooled:
                x = layers.pool(x, "max")
        return x


class MLP(nn.Module):
    """Two hidden layers of 128 ReLUs. `[n, H, W, D]` -> `[n, 128]`."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.relu(layers.dense(x, 128))
        return x


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling. `[n, H, W, D]` -> `[n, 84]`."""

    conv_fn: ConvFn

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width, padding in ((6, layers.first_padding(x, 0)), (16, 0)):
            x = layers.conv(x, width, 5, padding=padding, conv_fn=self.conv_fn)
            x = layers.pool(nn.relu(x), "max")
        x = x.reshape(x.shape[0], -1)
        for width in (120, 84):
            x = nn.relu(layers.dense(x, width))
        return x


class AlexCifarNet(nn.Module):
    """Two convolutions and two hidden layers. `[n, H, W, D]` -> `[n, 192]`."""

    conv_fn: ConvFn

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        padding = layers.first_padding(x, 2)
        x = nn.relu(layers.conv(x, 64, 5, padding=padding, conv_fn=self.conv_fn))
        x = layers.local_response_norm(layers.overlapping_max_pool(x))
        x = nn.relu(layers.conv(x, 64, 5, padding=2, conv_fn=self.conv_fn))
        x = layers.overlapping_max_pool(layers.local_response_norm(x))
        x = x.reshape(x.shape[0], -1)
        for width in (384, 192):
            x = nn.relu(layers.dense(x, width))
        return x
