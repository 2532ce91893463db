"""AlexCifarNet, the small AlexNet of dataset distillation's authors for CIFAR-10.

As in https://github.com/SsnL/dataset-distillation, networks.py; gradient matching is
compared with dataset distillation on it.
"""

import flax.linen as nn
import jax

from dc_jax.networks import layers
from dc_jax.networks.convolution import ConvFn

MIN_SIDE = 1  # two poolings that round up


class AlexCifarNet(nn.Module):
    """Everything before the classifier. `[n, H, W, D]` -> `[n, 192]`."""

    conv_fn: ConvFn

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        padding = layers.first_padding(x, 2)
        x = nn.relu(layers.conv(x, 64, 5, padding=padding, conv_fn=self.conv_fn))
        x = layers.local_response_norm(layers.overlapping_max_pool(x))
        x = nn.relu(layers.conv(x, 64, 5, padding=2, conv_fn=self.conv_fn))
        x = layers.overlapping_max_pool(layers.local_response_norm(x))
        x = x.reshape(x.shape[0], -1)
        for width in (384, 192):
            x = nn.relu(layers.dense(x, width))
        return x
