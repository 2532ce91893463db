"""The authors' small AlexNet: five convolutions and a single linear layer."""

import flax.linen as nn
import jax

from dc_jax.networks import layers
from dc_jax.networks.convolution import ConvFn

MIN_SIDE = 8  # three poolings

# Channels, side of the window, whether a pooling follows.
_LAYERS = (
    (128, 5, True),
    (192, 5, True),
    (256, 3, False),
    (192, 3, False),
    (192, 3, True),
)


class AlexNet(nn.Module):
    """Everything before the classifier. `[n, H, W, D]` -> `[n, H/8, W/8, 192]`.

    Attributes:
      conv_fn: called in place of `jax.lax.conv_general_dilated`.
      norm: one of `layers.NORMS`.
    """

    conv_fn: ConvFn
    norm: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for i, (width, kernel, is_pooled) in enumerate(_LAYERS):
            padding = kernel // 2
            if i == 0:
                padding = layers.first_padding(x, padding)
            x = layers.conv(x, width, kernel, padding=padding, conv_fn=self.conv_fn)
            x = nn.relu(layers.norm(x, self.norm, train=train))
            if is_pooled:
                x = layers.pool(x, "max")
        return x
