"""Training a network on the whole training set, batch by batch, and what that tells.

What coresets need to know of the real images: how often each was forgotten, and the
features of the trained network. And the upper bound of every method, the accuracy of
networks trained on everything. Pure functions; `baselines` has the loop.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from dc_jax.devices.layout import WHOLE, Axis
from dc_jax.networks import set_member
from dc_jax.training.train import (
    Recipe,
    TrainState,
    fold_slices,
    init_state,
    train_batch,
)


@flax.struct.dataclass
class WholeState:
    """A network in training, and how it did on each of the n training images.

    Attributes:
      network: in training.
      was_right: `[n]` bool, whether it classified an image rightly when it was last in
        a batch, before the update with that batch.
      is_learned: `[n]` bool, whether it ever did.
      forgotten: `[n]` int32, how often it did not although it had the time before.
    """

    network: TrainState
    was_right: jax.Array  # [n]
    is_learned: jax.Array  # [n]
    forgotten: jax.Array  # [n]


def init_whole(
    recipe: Recipe,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    num: int,
    member: jax.Array | None = None,
) -> WholeState:
    """Returns a fresh network, for `num` training images; see `set_member`."""
    variables = recipe.network.init(key, jnp.zeros((1, *image_shape)))
    variables = set_member(variables, member)
    return WholeState(
        network=init_state(recipe, variables),
        was_right=jnp.zeros(num, bool),
        is_learned=jnp.zeros(num, bool),
        forgotten=jnp.zeros(num, jnp.int32),
    )


def train_whole(
    recipe: Recipe,
    state: WholeState,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    key: jax.Array,
) -> WholeState:
    """Updates the network with one batch.

    Args:
      recipe: how.
      state: to begin with.
      images: normalised. Shape `[b, H, W, D]`.
      labels: Shape `[b]`.
      indices: of the images in the training split, all distinct. Shape `[b]`.
      key: of the augmentation, of this and other batches.

    Returns:
      The new state.
    """
    network, predictions = train_batch(recipe, state.network, images, labels, key=key)
    is_right = predictions == labels
    is_learned = state.is_learned[indices] | is_right
    is_forgotten = state.was_right[indices] & ~is_right
    return WholeState(
        network=network,
        was_right=state.was_right.at[indices].set(is_right),
        is_learned=state.is_learned.at[indices].set(is_learned),
        forgotten=state.forgotten.at[indices].add(is_forgotten.astype(jnp.int32)),
    )


def read_images(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,
    *,
    slice_size: int,
    devices: Axis = WHOLE,
) -> tuple[jax.Array, jax.Array]:
    """Returns what a network makes of images, as it is in evaluation.

    Args:
      network: the module.
      variables: of the network.
      images: normalised. Shape `[n, H, W, D]`.
      slice_size: images at once. Changes memory and speed only.
      devices: that share the images.

    Returns:
      The features, which the classifier reads, `[n, F]`, and the logits, `[n, C]`.
    """

    def read(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = network.apply(variables, images, method="embed")
        return features.astype(jnp.float32), network.apply(variables, images)

    def put(outputs, batch):
        places, images = batch
        return jax.tree.map(
            lambda whole, part: whole.at[places].set(part), outputs, read(images)
        )

    num = images.shape[0]
    mine, _ = devices.part(num)
    shapes = jax.eval_shape(read, images[mine])
    outputs = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    places = jnp.arange(len(mine))
    outputs = fold_slices(put, outputs, (places, images[mine]), slice_size)
    return devices.gather(outputs, num)
