"""LeNet-5 as the authors have it, with ReLU and max pooling."""

import flax.linen as nn
import jax

from dc_jax.networks import layers
from dc_jax.networks.convolution import ConvFn

MIN_SIDE = 16  # two unpadded 5x5 convolutions, a pooling after each


class LeNet(nn.Module):
    """Everything before the classifier. `[n, H, W, D]` -> `[n, 84]`."""

    conv_fn: ConvFn

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        for width, padding in ((6, layers.first_padding(x, 0)), (16, 0)):
            x = layers.conv(x, width, 5, padding=padding, conv_fn=self.conv_fn)
            x = layers.pool(nn.relu(x), "max")
        x = x.reshape(x.shape[0], -1)
        for width in (120, 84):
            x = nn.relu(layers.dense(x, width))
        return x
