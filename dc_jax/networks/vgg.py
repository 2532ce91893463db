"""VGG-11 for 32x32 images, with a normalisation after every convolution."""

import flax.linen as nn
import jax

from dc_jax.networks import layers
from dc_jax.networks.convolution import ConvFn

MIN_SIDE = 32  # five poolings

# Channels, whether a pooling follows.
_LAYERS = (
    (64, True),
    (128, True),
    (256, False),
    (256, True),
    (512, False),
    (512, True),
    (512, False),
    (512, True),
)


class VGG11(nn.Module):
    """Everything before the classifier. `[n, H, W, D]` -> `[n, H/32, W/32, 512]`.

    Attributes:
      conv_fn: called in place of `jax.lax.conv_general_dilated`.
      norm: one of `layers.NORMS`.
    """

    conv_fn: ConvFn
    norm: str = "instance"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for i, (width, is_pooled) in enumerate(_LAYERS):
            padding = layers.first_padding(x, 1) if i == 0 else 1
            x = layers.conv(x, width, 3, padding=padding, conv_fn=self.conv_fn)
            x = nn.relu(layers.norm(x, self.norm, train=train))
            if is_pooled:
                x = layers.pool(x, "max")
        return x
