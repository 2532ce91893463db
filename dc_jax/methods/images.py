"""The synthetic images of methods that descend a gradient: first state and update."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dc_jax.base import CondenseState
from dc_jax.config import Config
from dc_jax.data.store import ClassStore, draw_classes, sample_classes
from dc_jax.devices.layout import WHOLE, Axis, Layout

Init = Callable[[ClassStore, jax.Array], CondenseState]
Draws = Callable[[ClassStore, jax.Array], jax.Array]


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Returns the SGD on the images."""
    return optax.sgd(config.lr_img, config.momentum_img or None)


def make_init(
    config: Config, optimiser: optax.GradientTransformation, devices: Axis
) -> tuple[Init, Draws]:
    """Returns `init` and `init_draws`, see `Method`.

    Args:
      config: the run.
      optimiser: of the images.
      devices: that share the classes.
    """

    def init(store: ClassStore, key: jax.Array) -> CondenseState:
        images = init_images(
            *(store, key),
            class_ipc=config.class_ipc(store.num_classes),
            kind=config.init,
            devices=devices,
        )
        return CondenseState(images, optimiser.init(images))

    return init, make_init_draws(config)


def make_init_draws(config: Config) -> Draws:
    """Returns `init_draws` of a method that begins with `init_images`."""

    def init_draws(store: ClassStore, key: jax.Array) -> jax.Array:
        if config.init == "noise":
            return jnp.zeros((store.num_classes, 0), jnp.int32)
        # As many draws as there are different numbers, see `init_images`.
        numbers = np.unique(config.class_ipc(store.num_classes)).tolist()
        draws = [draw_classes(store, key, num) for num in numbers]
        return jnp.concatenate(draws, axis=1)

    return init_draws


def init_images(
    store: ClassStore,
    key: jax.Array,
    *,
    class_ipc: Sequence[int],
    kind: str,
    devices: Axis = WHOLE,
) -> jax.Array:
    """Returns the images to begin with.

    A class begins with what it would if all had as many images as itself.

    Args:
      store: the real images.
      key: consumed.
      class_ipc: images of each class. Shape `[C]`.
      kind: `noise` (standard normal, as in the paper) or `real` images.
      devices: that share the classes.

    Returns:
      Shape `[C, I, H, W, D]`; blank slots are 0.
    """

    def draw(num: int) -> jax.Array:
        if kind == "noise":
            shape = (store.num_classes, num, *store.images.shape[1:])
            return jax.random.normal(key, shape)
        return sample_classes(store, key, num, devices)

    class_ipc = np.asarray(class_ipc)
    numbers = np.unique(class_ipc).tolist()
    if len(numbers) == 1:
        return draw(numbers[0])
    images = jnp.zeros((len(class_ipc), max(numbers), *store.images.shape[1:]))
    for num in numbers:
        classes = np.flatnonzero(class_ipc == num)
        images = images.at[classes, :num].set(draw(num)[classes])
    return images


def slot_weights(labels: np.ndarray) -> np.ndarray | None:
    """Returns what makes the mean over the slots of a class that over its images.

    `I / i` for each of the i images of a class, 0 for blank slots; None where there are
    none, so that nothing is computed in vain.

    Args:
      labels: see `SyntheticSet`. Shape `[C, I]`.

    Returns:
      Shape `[C, I]`, or None.
    """
    is_image = labels >= 0
    if is_image.all():
        return None
    return np.float32(is_image / is_image.mean(axis=1, keepdims=True))


def update_images(
    state: CondenseState,
    losses: Any,
    grads: jax.Array,
    *,
    optimiser: optax.GradientTransformation,
    layout: Layout,
    num_networks: int,
) -> tuple[CondenseState, Any]:
    """One update, from what each device has found for its networks and its classes.

    Args:
      state: the images `[C, I, H, W, D]` and their optimiser.
      losses: of this device's networks, summed over its classes. Shape `[m]`, or a
        tree of such.
      grads: their gradients with respect to the images of its classes, of which the
        last may be there twice. Shape `[m, c, I, H, W, D]`.
      optimiser: of the images.
      layout: the devices.
      num_networks: M.

    Returns:
      The new state, and the loss, summed over classes and averaged over networks,
      `[]`, or a tree of such.
    """
    num_classes = state.images.shape[0]
    _, is_network = layout.networks.part(num_networks)
    # The mean over all networks, of which some may be here in vain.
    weights = is_network / num_networks
    grads = layout.networks.sum(jnp.tensordot(weights, grads, axes=1))
    grads = layout.classes.gather(grads, num_classes)
    means = jax.tree.map(lambda loss: jnp.dot(weights, loss), losses)
    loss = layout.classes.sum(layout.networks.sum(means))
    updates, opt_state = optimiser.update(grads, state.opt_state, state.images)
    images = optax.apply_updates(state.images, updates)
    return CondenseState(images, opt_state), loss
