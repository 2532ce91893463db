"""Trains a network on the whole training set, batch by batch: pure functions.

The accuracy of such networks is the upper bound of every method. Coresets need to know
how often a network forgot each image, and which features it has of it. The loop over
the batches is in `run/full_data_trainer.py`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from dc_jax.devices.backend import fold_slices
from dc_jax.devices.layout import WHOLE, Axis
from dc_jax.training.accuracy import accuracy
from dc_jax.training.train import Recipe, TrainState, init_state, train_batch


@flax.struct.dataclass
class WholeState:
    """A network in training, and how it classified each of the n training images.

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


class WholePhase(NamedTuple):
    """A phase of a training, with an optimiser of its own.

    Attributes:
      start: makes the optimiser's state anew: `state -> state`.
      update: updates the network with one batch, see `train_whole`: `(state, images,
        labels, indices, key) -> state`.
      epochs: how many.
    """

    start: Callable[[WholeState], WholeState]
    update: Callable[..., WholeState]
    epochs: int


class WholeTraining(NamedTuple):
    """The pure functions of a training. They know the network and the recipes.

    Attributes:
      init: makes a fresh network, see `init_whole`: `key -> state`.
      phases: one after another.
      test: `(state, images, labels) -> accuracy`, a fraction.
      read: `(state, images) -> (features, logits)`, see `read_images`.
    """

    init: Callable[[jax.Array], WholeState]
    phases: Sequence[WholePhase]
    test: Callable[..., jax.Array]
    read: Callable[..., tuple[jax.Array, jax.Array]]


def make_whole_training(
    recipes: Sequence[tuple[Recipe, int]], image_shape: tuple[int, int, int], num: int
) -> WholeTraining:
    """Returns the training by one recipe after another.

    Args:
      recipes: with the epochs of each.
      image_shape: `(H, W, D)`.
      num: n, the number of training images.
    """
    first, _ = recipes[0]
    network, slice_size = first.network, first.slice_size

    def start(recipe: Recipe, state: WholeState) -> WholeState:
        return state.replace(network=init_state(recipe, state.network.variables))

    def test(state: WholeState, images: jax.Array, labels: jax.Array) -> jax.Array:
        variables = state.network.variables
        return accuracy(network, variables, images, labels, slice_size=slice_size)

    def read(state: WholeState, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return read_images(
            network,
            state.network.variables,
            images,
            slice_size=slice_size,
            devices=first.devices,
        )

    phases = [
        WholePhase(
            functools.partial(start, recipe),
            functools.partial(train_whole, recipe),
            epochs,
        )
        for recipe, epochs in recipes
    ]
    return WholeTraining(
        lambda key: init_whole(first, key, image_shape, num), phases, test, read
    )


def init_whole(
    recipe: Recipe, key: jax.Array, image_shape: tuple[int, int, int], num: int
) -> WholeState:
    """Returns a fresh network, for `num` training images."""
    variables = recipe.network.init(key, jnp.zeros((1, *image_shape)))
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
      state: the network to begin with.
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
    """Returns the features and logits that a network has of images in evaluation.

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
