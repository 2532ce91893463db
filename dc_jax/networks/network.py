"""What every network is: features, and one linear layer that reads them."""

import flax.linen as nn
import jax

from dc_jax.networks import layers


class Network(nn.Module):
    """A linear classifier on the flattened output of `features`.

    Attributes:
      features: called as `features(x, train)` on images `[n, H, W, D]`; returns
        `[n, ...]`.
      num_classes: C.
    """

    features: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits. `[n, H, W, D]` -> `[n, C]`."""
        return layers.dense(self.embed(x, train), self.num_classes, name="classifier")

    def embed(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns what the classifier reads. `[n, H, W, D]` -> `[n, F]`."""
        x = self.features(x, train)
        return x.reshape(x.shape[0], -1)
