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
    """A network in training, and how it classified each of the n training images."""

    network: TrainState
    # [n] bool, whether it classified an image rightly when that was last in a batch,
    # before the update with this batch.
    was_right: jax.Array
    is_learned: jax.Array  # [n] bool, whether it ever did.
    # [n] int32, how often it did not although it had the time before.
    forgotten: jax.Array


class WholePhase(NamedTuple):
    """A phase of a training, with an optimiser of its own."""

    start: Callable[[WholeState], WholeState]  # Makes the optimiser's state anew.
    # (state, images, labels, indices, key) -> state, with one batch; see `train_whole`.
    update: Callable[..., WholeState]
    epochs: int


class WholeTraining(NamedTuple):
    """The pure functions of a training. They know the network and the recipes."""

    init: Callable[[jax.Array], WholeState]  # From a key; see `init_whole`.
    phases: Sequence[WholePhase]  # One after another.
    test: Callable[..., jax.Array]  # (state, images, labels) -> accuracy, a fraction.
    # (state, images) -> (features, logits), see `read_images`.
    read: Callable[..., tuple[jax.Array, jax.Array]]


def make_whole_training(
    recipes: Sequence[tuple[Recipe, int]], image_shape: tuple[int, int, int], num: int
) -> WholeTraining:
    """Returns the training on `num` images by one recipe after another.

    With each recipe comes the number of its epochs.
    """
    first, _ = recipes[0]
    network, slice_size = first.network, first.slice_size

    def start(recipe: Recipe, state: WholeState) -> WholeState:
        return state.replace(network=init_state(recipe, state.network.variables))

    def test(state: WholeState, images: jax.Array, labels: jax.Array) -> jax.Array:
        variables = state.network.variables
        return accuracy(network, variables, images, labels, slice_size=slice_size)

    def read(state: WholeState, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        how = {"slice_size": slice_size, "devices": first.devices}
        return read_images(network, state.network.variables, images, **how)

    def phase(recipe: Recipe, epochs: int) -> WholePhase:
        update = functools.partial(train_whole, recipe)
        return WholePhase(functools.partial(start, recipe), update, epochs)

    def init(key: jax.Array) -> WholeState:
        return init_whole(first, key, image_shape, num)

    return WholeTraining(init, [phase(*recipe) for recipe in recipes], test, read)


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
    images: jax.Array,  # [b, H, W, D], normalised
    labels: jax.Array,  # [b]
    indices: jax.Array,  # [b], of the images in the training split, all distinct
    key: jax.Array,  # of the augmentation, of this and other batches
) -> WholeState:
    """Updates the network with one batch."""
    num = len(state.was_right)
    network, predictions = train_batch(
        recipe, state.network, images, labels, key=key, num=num
    )
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
    images: jax.Array,  # [n, H, W, D], normalised
    *,
    slice_size: int,  # images at once; changes memory and speed only
    devices: Axis = WHOLE,  # that share the images
) -> tuple[jax.Array, jax.Array]:
    """Returns the features and logits that a network has of images in evaluation.

    The features are what the classifier reads, `[n, F]`; the logits are `[n, C]`.
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
