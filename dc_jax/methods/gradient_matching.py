"""Dataset condensation with gradient matching: the paper's algorithm 1.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021,
https://openreview.net/forum?id=mSAKhLYLSsl. Follows the authors' code where it differs:
one update of the images for each of the T outer steps, and no training of the networks
after the last one.

    for k in range(K):                                 # run/loop.py
        theta ~ P(theta_0)                             # `step` from here on
        for t in range(T):
            for every class c:                         # `match_class`
                g_real = gradient of the loss on N real images of c
                g_syn  = gradient of the loss on the synthetic images of c
                S_c   <- S_c - sgd(gradient of D(g_syn, g_real))
            theta <- sgd on all synthetic images       # inner loop: `train_networks`

With `augmentation`, one draw of differentiable Siamese augmentation changes the real
and the synthetic images of a class alike before their gradients are computed, and the
networks are trained on augmented images: Zhao and Bilen, "Dataset Condensation with
Differentiable Siamese Augmentation" (DSA), ICML 2021, https://arxiv.org/abs/2102.08259.

Classes may have different numbers of synthetic images: the slots of a class that hold
no image are blank and have no weight in its mean loss.

With the sampler `kmeans`, the real images are those that represent a larger draw best:
Liu et al., "DREAM", ICCV 2023, see `clustering`.

With M > 1 networks the matching loss is the mean over them. That is our generalisation;
M = 1 is the paper.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dc_jax.base import CondenseState, Method, Offsets, flatten_set, make_labels
from dc_jax.config import SIAMESE_PREFIX, Config
from dc_jax.data.formation import decode
from dc_jax.data.store import ClassStore, class_keys, take_images
from dc_jax.devices.backend import Execution, batched
from dc_jax.devices.layout import ONE_DEVICE, Layout
from dc_jax.methods.batch_norm import freeze_batch_norm
from dc_jax.methods.clustering import choose_images, draw_candidates
from dc_jax.methods.distances import match_distances
from dc_jax.methods.images import make_init, make_optimiser, slot_weights, update_images
from dc_jax.methods.second_order import second_order
from dc_jax.training.augment_siamese import make_siamese
from dc_jax.training.train import Recipe, TrainState, init_state, mean_gradient, train


@dataclasses.dataclass(frozen=True)
class Matching:
    """What one outer step needs besides arrays."""

    recipe: Recipe  # How the networks are trained between outer steps.
    distance: str  # Between gradients, see `distances`.
    batch_real: int  # N
    optimiser: optax.GradientTransformation  # Of the images.
    num_networks: int  # M
    network_loop: str  # How the axis M is run, see `batched`.
    class_loop: str = "map"  # The same for the axis C.
    layout: Layout = ONE_DEVICE  # The devices.
    augmentation: str = "none"  # See `augment_siamese`; drawn per class and network.
    ipc: tuple[int, ...] | None = None  # Images of each class where they differ.
    factor: int = 1  # Each image holds factor x factor others, see `formation`.
    candidates: int = 0  # Of which k-means chooses N; 0: N are drawn.

    def labels(self, images: jax.Array) -> np.ndarray:
        """Returns the labels of the images `[C, I, H, W, D]`, see `SyntheticSet`."""
        num_classes, ipc = images.shape[:2]
        return make_labels(self.ipc or (ipc,) * num_classes)


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns gradient matching of a network as a method."""
    outer_loop, inner_loop = config.loops()
    matching = make_matching(config, network, execution)

    def step(
        state: CondenseState, store: ClassStore, key: jax.Array
    ) -> tuple[CondenseState, dict[str, Any], Offsets]:
        init_key, loop_key = jax.random.split(key)
        networks = init_networks(matching, state.images, init_key)

        def outer_step(carry, t):
            state, networks = carry
            train_key, match_key = jax.random.split(jax.random.fold_in(loop_key, t))
            if outer_loop > 1:  # Trained before every outer step but the first.
                networks = jax.lax.cond(
                    t > 0,
                    lambda networks: train_networks(
                        matching,
                        networks,
                        state.images,
                        epochs=inner_loop,
                        key=train_key,
                    ),
                    lambda networks: networks,
                    networks,
                )
            state, networks, distances, offsets = match_step(
                matching, state, networks, store, match_key
            )
            return (state, networks), (distances, offsets)

        (state, _), (distances, offsets) = jax.lax.scan(
            outer_step, (state, networks), jnp.arange(outer_loop)
        )
        # Reported as in the authors' code: per class and outer step.
        num_classes = state.images.shape[0]
        layers = jax.tree.map(lambda value: jnp.mean(value) / num_classes, distances)
        return state, {"loss": sum(layers.values()), "layers": layers}, offsets

    return Method(make_init(config, matching.optimiser, network, execution), step)


def make_matching(config: Config, network: nn.Module, execution: Execution) -> Matching:
    """Returns what the config says of an outer step."""
    is_augmented = config.augmentation != "none"
    recipe = Recipe(
        network=network,
        optimiser=optax.sgd(config.lr_net, config.momentum_net or None),
        batch_size=config.batch_train,
        slice_size=execution.slice_size,
        augmentation=SIAMESE_PREFIX + config.augmentation if is_augmented else "none",
        devices=execution.layout.classes,
    )
    return Matching(
        recipe=recipe,
        distance=config.distance,
        batch_real=config.batch_real,
        optimiser=make_optimiser(config),
        num_networks=config.num_networks,
        network_loop=execution.network_loop,
        class_loop=execution.class_loop,
        layout=execution.layout,
        augmentation=config.augmentation,
        ipc=None if isinstance(config.ipc, int) else config.ipc,
        factor=config.formation.factor,
        candidates=config.candidates if config.sampler == "kmeans" else 0,
    )


def init_networks(matching: Matching, images: jax.Array, key: jax.Array) -> TrainState:
    """Returns this device's part of M fresh networks, the leading axis of a leaf."""
    recipe = matching.recipe

    def init(key: jax.Array) -> TrainState:
        return init_state(recipe, recipe.network.init(key, images[0, :1]))

    return jax.vmap(init)(network_keys(matching, key))


def network_keys(matching: Matching, key: jax.Array) -> jax.Array:
    """Returns a key for each of this device's networks."""
    mine, _ = matching.layout.networks.part(matching.num_networks)
    return jax.random.split(key, matching.num_networks)[mine]


def train_networks(
    matching: Matching,
    networks: TrainState,
    images: jax.Array,
    *,
    epochs: int,
    key: jax.Array,
) -> TrainState:
    """The inner loop: trains the M networks on the images `[C, I, H, W, D]`."""
    flat, labels = flatten_set(images, matching.labels(images))
    flat = decode(flat, matching.factor)
    labels = jnp.asarray(labels.repeat(matching.factor**2))

    def train_one(state: TrainState, key: jax.Array) -> TrainState:
        return train(matching.recipe, state, flat, labels, epochs=epochs, key=key)

    keys = network_keys(matching, key)
    return batched(train_one, matching.network_loop)(networks, keys)


def match_step(
    matching: Matching,
    state: CondenseState,
    networks: TrainState,  # leaves [M, ...]
    store: ClassStore,
    key: jax.Array,
) -> tuple[CondenseState, TrainState, dict[str, jax.Array], Offsets]:
    """Updates the images once, by equation 8 with the distance of equation 9.

    Returns:
      The new state; the networks (batch norm has new statistics); the summands of the
      matching loss by parameter, summed over classes and averaged over networks, each
      `[]`; and the offsets of the real images.
    """

    def match_one(network: TrainState, key: jax.Array):
        return match_network(matching, state.images, network, store, key)

    losses, grads, networks, offsets = batched(match_one, matching.network_loop)(
        networks, network_keys(matching, key)
    )
    state, loss = update_images(
        state, losses, grads, matching.optimiser, matching.layout, matching.num_networks
    )
    return state, networks, loss, offsets


def match_network(matching, images, network, store, key):
    """Matches one network with all classes of this device.

    Returns:
      What `match_class` does, its losses summed over classes, its gradients
      `[c, I, H, W, D]`; the network; and the offsets of the real images.
    """
    recipe, num_real = matching.recipe, matching.batch_real
    labels, is_class = matching.layout.classes.part(images.shape[0])
    weights = slot_weights(matching.labels(images), matching.factor)
    statistics_key, real_key, augment_key = jax.random.split(key, 3)
    variables, statistics_offsets = freeze_batch_norm(
        recipe.network, network.variables, store, statistics_key
    )

    def match_one(images, label, place, offsets, siamese_key, weights):
        real = take_images(store, place, offsets)
        if matching.candidates:
            real = choose_images(
                recipe.network, variables, real, num_real, slice_size=recipe.slice_size
            )
        augment = make_siamese(siamese_key, matching.augmentation, images.shape[1:])
        return match_class(
            matching, variables, images, real, label, augment, weights=weights
        )

    offsets = draw_candidates(store, real_key, num_real, matching.candidates)
    # With `map` a single class's second-order graph is in memory.
    losses, grads = batched(match_one, matching.class_loop)(
        images[labels],
        labels,
        jnp.arange(len(labels)),
        offsets,
        class_keys(store, augment_key)[labels],
        None if weights is None else jnp.asarray(weights)[labels],
    )
    loss = jax.tree.map(lambda of: jnp.sum(jnp.where(is_class, of, 0)), losses)
    network = network._replace(variables=variables)
    return loss, grads, network, (statistics_offsets, offsets)


def match_class(
    matching: Matching,
    variables: dict[str, Any],
    images: jax.Array,  # [I, H, W, D], synthetic, of the class
    real: jax.Array,  # [N, H, W, D], of the class
    label: jax.Array,  # []
    augment: Callable[[jax.Array], jax.Array],  # see `make_siamese`
    *,
    weights: jax.Array | None = None,  # [I * factor**2], see `slot_weights`
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Matches the gradients of one class and one network.

    Returns:
      The summands of the matching loss by parameter, each `[]`, and the gradient of
      their sum with respect to `images`.
    """
    network, slice_size = matching.recipe.network, matching.recipe.slice_size

    def gradient(images, slice_size, weights=None):
        labels = jnp.broadcast_to(label, images.shape[:1])
        return mean_gradient(
            network, variables, images, labels, slice_size=slice_size, weights=weights
        )

    def distance(grads_syn: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        distances = match_distances(grads_syn, grads_real, matching.distance)
        return sum(distances.values()), distances

    grads_real = gradient(augment(real), slice_size)

    def form(images: jax.Array) -> jax.Array:
        return augment(decode(images, matching.factor))

    formed, form_back = jax.vjp(form, images)
    grads, distances = second_order(
        gradient, distance, formed, weights, slice_size=slice_size
    )
    return distances, form_back(grads)[0]
