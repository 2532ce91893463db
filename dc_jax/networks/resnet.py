"""ResNet-18 for small images: a 3x3 first convolution and four stages of two blocks.

Two forms, as in the authors' code. The usual one halves the image by strides and ends
in a mean over all pixels (for 28x28 and 32x32 images that is the authors' 4x4 window).
"AP" halves it by average pooling and leaves the last map as it is.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.networks import layers
from dc_jax.networks.convolution import ConvFn

_WIDTHS = (64, 128, 256, 512)  # of the stages; all but the first halve the image


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    width: int  # output channels
    is_halved: bool  # whether rows and columns are halved
    norm: str  # one of `layers.NORMS`
    is_pooled: bool  # whether halving is by average pooling, not by strides
    conv_fn: ConvFn

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        stride = 2 if self.is_halved and not self.is_pooled else 1
        pooling = "average" if self.is_halved and self.is_pooled else "none"

        def conv(x, kernel, stride):
            how = {"stride": stride, "padding": kernel // 2, "use_bias": False}
            return layers.conv(x, self.width, kernel, conv_fn=self.conv_fn, **how)

        y = nn.relu(layers.norm(conv(x, 3, stride), self.norm, train=train))
        y = conv(layers.pool(y, pooling), 3, 1)
        y = layers.norm(y, self.norm, train=train)
        if self.is_halved:
            x = layers.pool(conv(x, 1, stride), pooling)
            x = layers.norm(x, self.norm, train=train)
        return nn.relu(y + x)


class ResNet18(nn.Module):
    """Everything before the classifier.

    `[n, H, W, D]` -> `[n, 512]`, or `[n, H/8, W/8, 512]` where `is_pooled`.
    """

    conv_fn: ConvFn
    norm: str = "instance"  # one of `layers.NORMS`
    is_pooled: bool = False  # the "AP" form

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = layers.conv(
            x, _WIDTHS[0], 3, padding=1, use_bias=False, conv_fn=self.conv_fn
        )
        x = nn.relu(layers.norm(x, self.norm, train=train))
        for stage, width in enumerate(_WIDTHS):
            for i in range(2):
                is_halved = stage > 0 and i == 0
                block = Block(width, is_halved, self.norm, self.is_pooled, self.conv_fn)
                x = block(x, train)
        return x if self.is_pooled else jnp.mean(x, (1, 2))
