"""Dataset condensation with distribution matching (DM).

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023,
https://arxiv.org/abs/2110.04181, algorithm 1, and the authors' code where it differs
(main_DM.py of https://github.com/VICO-UoE/DatasetCondensation): the embedding is the
input of the classifier of a network with fresh random weights, which are never trained.

    for k in range(K):                                 # run/loop.py
        theta ~ P(theta_0)                             # `step` from here on
        for every class c:                             # `match_network`, `match_class`
            omega ~ Omega                              # `make_siamese`
            e_real = mean embedding of N real images of c, augmented with omega
            e_syn  = mean embedding of the synthetic images of c, augmented with omega
        S <- S - sgd(gradient of the sum over c of |e_real - e_syn|^2)

With batch norm, whose statistics are those of the batch, the real images of all classes
are embedded at once, and so are the synthetic ones. With M > 1 networks the loss is the
mean over them, which is our generalisation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.base import CondenseState, Method, Offsets, flatten_set, make_labels
from dc_jax.config import Config
from dc_jax.data.formation import decode
from dc_jax.data.store import (
    ClassStore,
    class_keys,
    draw_offsets,
    sample_classes,
    take_images,
)
from dc_jax.devices.backend import Execution, batched, fold_slices
from dc_jax.methods.expert_networks import begin_network
from dc_jax.methods.images import make_init, make_optimiser, slot_weights, update_images
from dc_jax.training.augment_siamese import make_siamese

# From images `[n, H, W, D]` to images.
Augment = Callable[[jax.Array], jax.Array]


class Comparison(NamedTuple):
    """How the synthetic images of a class are compared with the real ones.

    Attributes:
      features: from the embeddings of images, `[n, F]`, to what has a mean, `[n, Q]`.
      distance: of the mean of synthetic images to that of real ones, `[Q]`, as `[]`.
    """

    features: Callable[[jax.Array], jax.Array]
    distance: Callable[[jax.Array, jax.Array], jax.Array]


# Of DM: the squared distance of the mean embeddings.
MEANS = Comparison(lambda embedded: embedded, lambda a, b: jnp.sum((a - b) ** 2))


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns distribution matching as a method, by the `embed` of the network."""
    optimiser, layout = make_optimiser(config), execution.layout
    num_networks = config.num_networks

    def step(
        state: CondenseState, store: ClassStore, key: jax.Array
    ) -> tuple[CondenseState, dict[str, Any], Offsets]:
        init_key, match_key = jax.random.split(key)

        def match_fresh(init_key: jax.Array, key: jax.Array):
            image = state.images[0, :1]
            variables = begin_network(network, image, store.experts, init_key)
            return match_network(
                config, network, execution, variables, state.images, store, key
            )

        mine, _ = layout.networks.part(num_networks)
        losses, grads, offsets = batched(match_fresh, execution.network_loop)(
            jax.random.split(init_key, num_networks)[mine],
            jax.random.split(match_key, num_networks)[mine],
        )
        state, loss = update_images(
            state, losses, grads, optimiser, layout, num_networks
        )
        # Reported as in the authors' code: per class.
        return state, {"loss": loss / state.images.shape[0]}, offsets

    init = make_init(config, optimiser, network, execution)
    return Method(init, step, config.snapshots())


def match_network(
    config: Config,
    network: nn.Module,
    execution: Execution,
    variables: dict[str, Any],
    images: jax.Array,  # [C, I, H, W, D], synthetic
    store: ClassStore,
    key: jax.Array,
    comparison: Comparison = MEANS,
) -> tuple[jax.Array, jax.Array, Offsets]:
    """Matches one network, class by class; with batch norm all classes at once.

    Returns:
      The loss, summed over this device's classes; its gradient with respect to the
      images of each of them, `[c, I, H, W, D]`; and the offsets of the real images.
    """
    match = _match_at_once if "batch_stats" in variables else _match_by_class
    return match(config, network, execution, variables, images, store, key, comparison)


def _match_by_class(
    config, network, execution, variables, images, store, key, comparison
):
    """Does what `match_network` does, for a network without batch norm."""
    num_classes, size = images.shape[0], execution.slice_size
    labels, is_class = execution.layout.classes.part(num_classes)
    real_key, augment_key = jax.random.split(key)
    factor = config.formation.factor
    weights = slot_weights(make_labels(config.class_ipc(num_classes)), factor)

    def match_one(images, place, offsets, siamese_key, weights):
        real = take_images(store, place, offsets)
        augment = make_siamese(siamese_key, config.augmentation, images.shape[1:])
        return match_class(
            network,
            variables,
            images,
            real,
            augment,
            slice_size=size,
            weights=weights,
            factor=factor,
            comparison=comparison,
        )

    offsets = draw_offsets(store, real_key, config.batch_real)
    losses, grads = batched(match_one, execution.class_loop)(
        images[labels],
        jnp.arange(len(labels)),
        offsets,
        class_keys(store, augment_key)[labels],
        None if weights is None else jnp.asarray(weights)[labels],
    )
    return jnp.sum(jnp.where(is_class, losses, 0)), grads, offsets


def _match_at_once(
    config, network, execution, variables, images, store, key, comparison
):
    """Does what `match_network` does, for one with batch norm, on every device."""
    labels, is_class = execution.layout.classes.part(images.shape[0])
    real_key, augment_key = jax.random.split(key)
    real, offsets = sample_classes(store, real_key, config.batch_real)

    def augment_one(images: jax.Array, key: jax.Array) -> jax.Array:
        return make_siamese(key, config.augmentation, images.shape[1:])(images)

    def augment(images: jax.Array) -> jax.Array:
        """Changes the images of each class in its own way. `[C, n, H, W, D]`."""
        return jax.vmap(augment_one)(images, class_keys(store, augment_key))

    own_labels = make_labels(config.class_ipc(images.shape[0]))
    losses, grads = match_classes(
        network,
        variables,
        images,
        real,
        augment,
        labels=own_labels,
        factor=config.formation.factor,
        comparison=comparison,
    )
    loss = jnp.sum(jnp.where(is_class, losses[labels], 0))
    return loss, grads[labels], offsets


def match_class(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,  # [I, H, W, D], synthetic, of the class
    real: jax.Array,  # [N, H, W, D], of the class
    augment: Augment,  # see `make_siamese`
    *,
    slice_size: int,  # images at once; changes memory and speed only
    weights: jax.Array | None = None,  # [I * factor**2], see `slot_weights`
    factor: int = 1,  # each synthetic image holds factor x factor others
    comparison: Comparison = MEANS,
) -> tuple[jax.Array, jax.Array]:
    """Matches the mean features of one class and one network.

    Returns the distance of the means, `[]`, and its gradient with respect to `images`.
    """

    def features(images: jax.Array) -> jax.Array:
        embedded = network.apply(variables, images, method="embed")
        return comparison.features(embedded.astype(float))

    target = mean_in_slices(features, augment(real), None, slice_size)

    def loss(images: jax.Array) -> jax.Array:
        formed = augment(decode(images, factor))
        mean = mean_in_slices(features, formed, weights, slice_size)
        return comparison.distance(mean, target)

    return jax.value_and_grad(loss)(images)


def mean_in_slices(
    function: Callable[[jax.Array], jax.Array],
    images: jax.Array,  # [n, H, W, D]
    weights: jax.Array | None,  # [n], see `slot_weights`
    slice_size: int,  # images at once; changes memory and speed only
) -> jax.Array:
    """Returns the mean, `[Q]`, of what a function makes of images, `[n, Q]`."""

    # Of a slice no more than its images is kept for the gradient: there may be many.
    @jax.checkpoint
    def add(total: jax.Array, batch: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        images, weights = batch
        values = function(images)
        if weights is not None:
            values = weights[:, None] * values
        return total + jnp.sum(values, axis=0)

    shape = jax.eval_shape(add, 0.0, (images[:1], None)).shape
    total = fold_slices(add, jnp.zeros(shape), (images, weights), slice_size)
    return total / len(images)


def match_classes(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,  # [C, I, H, W, D], synthetic
    real: jax.Array,  # [C, N, H, W, D]
    augment: Augment,  # of images [C, n, H, W, D]
    *,
    labels: np.ndarray,  # [C, I], of the synthetic images, see `SyntheticSet`
    factor: int = 1,  # each synthetic image holds factor x factor others
    comparison: Comparison = MEANS,
) -> tuple[jax.Array, jax.Array]:
    """Matches the mean features of all classes, with the statistics of the batch.

    Returns the distance of the means of each class, `[C]`, and the gradient of their
    sum with respect to `images`.
    """

    def mean_features(images: jax.Array, labels: np.ndarray) -> jax.Array:
        flat, flat_labels = flatten_set(images, labels)
        embedded, _ = network.apply(
            variables, flat, train=True, method="embed", mutable=["batch_stats"]
        )
        features = comparison.features(embedded.astype(float))
        if len(flat) == labels.size:
            return jnp.mean(features.reshape(*labels.shape, -1), axis=1)
        sums = jax.ops.segment_sum(features, jnp.asarray(flat_labels), len(labels))
        return sums / (labels >= 0).sum(axis=1, keepdims=True)

    num_classes, num_real = real.shape[:2]
    target = mean_features(augment(real), make_labels((num_real,) * num_classes))

    def loss(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        formed = augment(jax.vmap(lambda of_class: decode(of_class, factor))(images))
        of_formed = labels.repeat(factor**2, axis=1)
        means = mean_features(formed, of_formed)
        losses = jax.vmap(comparison.distance)(means, target)
        return jnp.sum(losses), losses

    (_, losses), grads = jax.value_and_grad(loss, has_aux=True)(images)
    return losses, grads
