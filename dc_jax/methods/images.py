"""The synthetic images of methods that descend a gradient: first state and update."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dc_jax.base import CondenseState, Offsets
from dc_jax.config import Config
from dc_jax.data.formation import encode
from dc_jax.data.store import ClassStore, class_keys, sample_classes
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import Layout
from dc_jax.errors import UserError
from dc_jax.methods.clustering import Sample, make_sample

Init = Callable[[ClassStore, jax.Array], tuple[CondenseState, Offsets]]


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Returns the SGD on the images."""
    return optax.sgd(config.lr_img, config.momentum_img or None)


def check_equal_ipc(config: Config) -> int:
    """Returns I, for a method that needs the same number of images of each class.

    Raises:
      UserError: the classes have different numbers of images.
    """
    numbers = {config.ipc} if isinstance(config.ipc, int) else {*config.ipc}
    if len(numbers) > 1:
        raise UserError(
            f"config.ipc must be one number for {config.method}, which needs the same "
            f"number of images of each class, got {list(config.ipc)}."
        )
    return numbers.pop()


def make_init(
    config: Config,
    optimiser: optax.GradientTransformation,
    network: nn.Module,
    execution: Execution,
) -> Init:
    """Returns `Method.init` for images `config.init` that `optimiser` will update."""

    def init(store: ClassStore, key: jax.Array) -> tuple[CondenseState, Offsets]:
        class_ipc = config.class_ipc(store.num_classes)
        images, offsets = init_images(
            store,
            key,
            class_ipc=class_ipc,
            kind=config.init,
            sample=make_sample(config, network, execution),
            factor=config.formation.factor,
        )
        return CondenseState(images, optimiser.init(images)), offsets

    return init


def init_images(
    store: ClassStore,
    key: jax.Array,
    *,
    class_ipc: Sequence[int],
    kind: str,
    sample: Sample = sample_classes,
    factor: int = 1,
) -> tuple[jax.Array, Offsets]:
    """Returns the images to begin with, `class_ipc[c]` of class c.

    They are `[C, I, H, W, D]` with 0 in blank slots, and with them come the offsets of
    those that were drawn from the store. The kind is `noise` (standard normal, as in
    the paper), or `real` or `kmeans`, with an image that `sample` returns in each of
    the factor x factor tiles, see `formation`. Each class has a key of its own, and
    begins with the images that it would have if all classes had as many as it has.
    """

    def draw(num: int) -> tuple[jax.Array, Offsets]:
        if kind != "noise":
            images, offsets = sample(store, key, num * factor**2)
            return jax.vmap(lambda of_class: encode(of_class, factor))(images), offsets
        shape = (num, *store.images.shape[1:])
        keys = class_keys(store, key)
        images = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        return images, jnp.zeros((store.num_classes, 0), jnp.int32)

    class_ipc = np.asarray(class_ipc)
    shape = (len(class_ipc), class_ipc.max(), *store.images.shape[1:])
    images, offsets = jnp.zeros(shape), []
    for num in np.unique(class_ipc).tolist():
        drawn, places = draw(num)
        classes = np.flatnonzero(class_ipc == num)
        images = images.at[classes, :num].set(drawn[classes])
        offsets.append(places)
    return images, offsets


def slot_weights(labels: np.ndarray, factor: int = 1) -> np.ndarray | None:
    """Returns weights that turn the mean over a class's slots into one over its images.

    The labels `[C, I]` of a `SyntheticSet` to `I / i` for each of the i images of a
    class and 0 for blank slots, `[C, I * factor**2]`, one for each that is decoded;
    None where there are no blank slots, so that nothing needs to be multiplied.
    """
    is_image = labels >= 0
    if is_image.all():
        return None
    weights = np.float32(is_image / is_image.mean(axis=1, keepdims=True))
    return weights.repeat(factor**2, axis=1)


def update_images(
    state: CondenseState,
    losses: Any,  # `[m]`, or a tree of such
    grads: jax.Array,  # [m, c, I, H, W, D]
    optimiser: optax.GradientTransformation,
    layout: Layout,
    num_networks: int,
) -> tuple[CondenseState, Any]:
    """Updates the images once, by the gradients that each device has found.

    A device has the losses of its m networks, summed over its c classes, and their
    gradients; its last class may be there twice. Returns the new state, and the loss,
    summed over classes and averaged over networks, `[]`, or a tree of such.
    """
    _, is_network = layout.networks.part(num_networks)
    # This device may hold a copy of the last network, which has the weight 0.
    weights = is_network / num_networks
    grads = layout.networks.sum(jnp.tensordot(weights, grads, axes=1))
    grads = layout.classes.gather(grads, len(state.images))
    means = jax.tree.map(lambda loss: jnp.dot(weights, loss), losses)
    loss = layout.classes.sum(layout.networks.sum(means))
    updates, opt_state = optimiser.update(grads, state.opt_state, state.images)
    images = optax.apply_updates(state.images, updates)
    return CondenseState(images, opt_state), loss
