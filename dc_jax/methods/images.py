"""The synthetic images of methods that descend a gradient: first state and update."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dc_jax.base import CondenseState, Offsets, flatten_set, make_labels
from dc_jax.config import Config
from dc_jax.data.formation import decode, encode
from dc_jax.data.store import ClassStore, class_keys, sample_classes
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import Layout
from dc_jax.errors import UserError
from dc_jax.methods.clustering import Sample, make_sample
from dc_jax.sets.make import nearest_probabilities

# Images `[..., H, W, D]`, or the pair of images and labels `[..., C]`.
Learned = Any
Init = Callable[[ClassStore, jax.Array], tuple[CondenseState, Offsets]]


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Returns the SGD on what is learned: the images, or images and labels."""

    def sgd(lr: float) -> optax.GradientTransformation:
        return optax.sgd(lr, config.momentum_img or None)

    if config.labels != "learned":
        return sgd(config.lr_img)
    parts = {"images": sgd(config.lr_img), "labels": sgd(config.lr_label)}
    return optax.partition(parts, ("images", "labels"))


def learnable(state: CondenseState) -> Learned:
    """Returns the images `[C, I, ...]`, or the pair of images and labels."""
    return state.images if state.labels is None else (state.images, state.labels)


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


def check_no_augmentation(config: Config) -> None:
    """Checks the config of a method that does not augment images.

    Raises:
      UserError: it has an augmentation.
    """
    if config.augmentation != "none":
        raise UserError(
            f'config.augmentation must be "none" for {config.method}, which has none, '
            f"got {config.augmentation!r}."
        )


def one_hot(labels: np.ndarray) -> jax.Array:
    """Returns the labels of a set as probabilities. `[C, I]` -> `[C, I, C]`.

    They are 0 in blank slots.
    """
    return jax.nn.one_hot(labels, len(labels))


def make_init(
    config: Config,
    optimiser: optax.GradientTransformation,
    network: nn.Module,
    execution: Execution,
    first_labels: Callable[[np.ndarray], jax.Array] = one_hot,
) -> Init:
    """Returns `Method.init` for images `config.init` that `optimiser` will update.

    Where labels are learned, `first_labels` returns those to begin with, as `one_hot`
    does.
    """

    def init(store: ClassStore, key: jax.Array) -> tuple[CondenseState, Offsets]:
        images, offsets = first_images(config, network, execution, store, key)
        state = CondenseState(images, ())
        if config.labels == "learned":
            class_ipc = config.class_ipc(store.num_classes)
            state = state.replace(labels=first_labels(make_labels(class_ipc)))
        return state.replace(opt_state=optimiser.init(learnable(state))), offsets

    return init


def first_images(
    config: Config,
    network: nn.Module,
    execution: Execution,
    store: ClassStore,
    key: jax.Array,
) -> tuple[jax.Array, Offsets]:
    """Returns the images that a config begins with, see `init_images`."""
    return init_images(
        store,
        key,
        class_ipc=config.class_ipc(store.num_classes),
        kind=config.init,
        sample=make_sample(config, network, execution),
        factor=config.formation.factor,
    )


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


def training_set(
    images: jax.Array,  # [C, I, H, W, D]
    soft_labels: jax.Array | None,  # [C, I, C]
    labels: np.ndarray,  # [C, I], see `SyntheticSet`
    factor: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns what networks are trained on, without blank slots: images and labels.

    All that an image holds has its label. `[n, H, W, D]` and `[n]`, or `[n, C]` where
    there are soft labels.
    """
    flat, flat_labels = flatten_set(images, labels)
    if soft_labels is not None:
        flat_labels, _ = flatten_set(soft_labels, labels)
    return decode(flat, factor), jnp.asarray(flat_labels).repeat(factor**2, axis=0)


def mean_over_networks(tree: Any, layout: Layout, num_networks: int) -> Any:
    """Returns the mean over all networks, of which each device has a part.

    Leaves are `[m, ...]`, and `[...]` afterwards.
    """
    _, is_network = layout.networks.part(num_networks)
    # This device may hold a copy of the last network, which has the weight 0.
    weights = is_network / num_networks

    def mean(leaf: jax.Array) -> jax.Array:
        # Gradients, too, are of float32, whatever the precision of the run.
        return jnp.tensordot(weights, leaf, axes=1, precision="highest")

    return layout.networks.sum(jax.tree.map(mean, tree))


def average(
    losses: Any,  # `[m]`, or a tree of such
    grads: Learned,  # [m, c, I, ...]
    layout: Layout,
    num_networks: int,
    num_classes: int,
) -> tuple[Any, Learned]:
    """Averages over networks what each device has found.

    A device has the losses of its m networks, summed over its c classes, and their
    gradients; its last class may be there twice. Returns the loss, summed over classes
    and averaged over networks, `[]`, or a tree of such, and its gradient `[C, I, ...]`.
    """
    losses, grads = mean_over_networks((losses, grads), layout, num_networks)
    return layout.classes.sum(losses), layout.classes.gather(grads, num_classes)


def update_images(
    state: CondenseState,
    losses: Any,
    grads: Learned,
    optimiser: optax.GradientTransformation,
    layout: Layout,
    num_networks: int,
) -> tuple[CondenseState, Any]:
    """Updates what is learned once, by the gradients that each device has found.

    Returns the new state, and the loss; see `average`.
    """
    loss, grads = average(losses, grads, layout, num_networks, len(state.images))
    after = descend(state, grads, optimiser)
    if state.labels is None:
        return after, loss
    # Probabilities again: the nearest ones, and still 0 in blank slots.
    is_image = jnp.any(state.labels > 0, axis=-1)
    labels = jnp.where(is_image[..., None], nearest_probabilities(after.labels), 0)
    return after.replace(labels=labels), loss


def descend(
    state: CondenseState, grads: Learned, optimiser: optax.GradientTransformation
) -> CondenseState:
    """Updates what is learned once, by its gradient."""
    before = learnable(state)
    updates, opt_state = optimiser.update(grads, state.opt_state, before)
    after = optax.apply_updates(before, updates)
    images, labels = (after, None) if state.labels is None else after
    return state.replace(images=images, labels=labels, opt_state=opt_state)
