"""What every network is: features, and one linear layer that reads them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dc_jax.networks import layers


class Network(nn.Module):
    """A linear classifier on the flattened output of `features`.

    Attributes:
      features: called as `features(x, train)` on images `[n, H, W, D]`; returns
        `[n, ...]`.
      num_classes: C.
      dtype: of what is computed between the images and the logits, which are of JAX's
        default float type as the parameters are.
    """

    features: nn.Module
    num_classes: int
    dtype: DTypeLike = float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits. `[n, H, W, D]` -> `[n, C]`."""
        x = self.embed(x, train)
        return layers.dense(x, self.num_classes, name="classifier").astype(float)

    def embed(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns what the classifier reads. `[n, H, W, D]` -> `[n, F]`."""
        x = self.features(jnp.asarray(x, self.dtype), train)
        return x.reshape(x.shape[0], -1)
