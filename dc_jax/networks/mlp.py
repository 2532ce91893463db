"""The authors' multilayer perceptron: two hidden layers of 128 ReLUs."""

import flax.linen as nn
import jax

from dc_jax.networks import layers


class MLP(nn.Module):
    """Everything before the classifier. `[n, H, W, D]` -> `[n, 128]`."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.relu(layers.dense(x, 128))
        return x
