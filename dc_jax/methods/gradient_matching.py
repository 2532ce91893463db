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
M = 1 is the paper. So is a pool: its networks go on training after an iteration, in
place of fresh ones that each iteration trains from the beginning, see `pool`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.base import CondenseState, Method, Offsets
from dc_jax.config import Config
from dc_jax.data.formation import decode
from dc_jax.data.store import ClassStore, class_keys, take_images
from dc_jax.devices.backend import Execution, batched
from dc_jax.methods.batch_norm import freeze_batch_norm
from dc_jax.methods.clustering import choose_images, draw_candidates
from dc_jax.methods.distances import match_distances
from dc_jax.methods.images import (
    Learned,
    learnable,
    make_init,
    slot_weights,
    update_images,
)
from dc_jax.methods.inner_loop import (
    begin_networks,
    network_keys,
    return_networks,
    train_networks,
)
from dc_jax.methods.matching import Matching, make_matching
from dc_jax.methods.pool import with_pool
from dc_jax.methods.second_order import second_order
from dc_jax.training.augment_siamese import make_siamese
from dc_jax.training.train import TrainState, mean_gradient


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns gradient matching of a network as a method."""
    outer_loop, inner_loop = config.loops()
    matching = make_matching(config, network, execution)

    def step(
        state: CondenseState, store: ClassStore, key: jax.Array
    ) -> tuple[CondenseState, dict[str, Any], Offsets]:
        init_key, loop_key = jax.random.split(key)
        networks, places = begin_networks(matching, state, store, init_key)

        def outer_step(carry, t):
            state, networks = carry
            train_key, match_key = jax.random.split(jax.random.fold_in(loop_key, t))
            if outer_loop > 1:  # Trained before every outer step but the first.
                networks = jax.lax.cond(
                    t > 0,
                    lambda networks: train_networks(
                        matching,
                        networks,
                        learnable(state),
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

        (state, networks), (distances, offsets) = jax.lax.scan(
            outer_step, (state, networks), jnp.arange(outer_loop)
        )
        if matching.pool:
            key = jax.random.fold_in(loop_key, outer_loop)
            state = return_networks(
                matching, state, networks, places, epochs=inner_loop, key=key
            )
        # Reported as in the authors' code: per class and outer step.
        num_classes = state.images.shape[0]
        layers = jax.tree.map(lambda value: jnp.mean(value) / num_classes, distances)
        return state, {"loss": sum(layers.values()), "layers": layers}, offsets

    init = make_init(config, matching.optimiser, network, execution)
    return Method(with_pool(init, matching.pool), step, config.snapshots())


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
        return match_network(matching, learnable(state), network, store, key)

    losses, grads, networks, offsets = batched(match_one, matching.network_loop)(
        networks, network_keys(matching, key)
    )
    state, loss = update_images(
        state, losses, grads, matching.optimiser, matching.layout, matching.num_networks
    )
    return state, networks, loss, offsets


def match_network(matching, learned, network, store, key):
    """Matches one network with all classes of this device.

    Returns:
      What `match_class` does, its losses summed over classes, its gradients
      `[c, I, ...]`; the network; and the offsets of the real images.
    """
    recipe, num_real = matching.recipe, matching.batch_real
    images, *_ = jax.tree.leaves(learned)
    labels, is_class = matching.layout.classes.part(images.shape[0])
    weights = slot_weights(matching.labels(images), matching.factor)
    statistics_key, real_key, augment_key = jax.random.split(key, 3)
    variables, statistics_offsets = freeze_batch_norm(
        recipe.network, network.variables, store, statistics_key
    )

    def match_one(learned, label, place, offsets, siamese_key, weights):
        real = take_images(store, place, offsets)
        if matching.candidates:
            real = choose_images(
                recipe.network, variables, real, num_real, slice_size=recipe.slice_size
            )
        augment = make_siamese(siamese_key, matching.augmentation, images.shape[2:])
        return match_class(
            matching, variables, learned, real, label, augment, weights=weights
        )

    offsets = draw_candidates(store, real_key, num_real, matching.candidates)
    # With `map` a single class's second-order graph is in memory.
    losses, grads = batched(match_one, matching.class_loop)(
        jax.tree.map(lambda leaf: leaf[labels], learned),
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
    learned: Learned,  # [I, H, W, D], of the class; or the pair with labels [I, C]
    real: jax.Array,  # [N, H, W, D], of the class
    label: jax.Array,  # []
    augment: Callable[[jax.Array], jax.Array],  # see `make_siamese`
    *,
    weights: jax.Array | None = None,  # [I * factor**2], see `slot_weights`
) -> tuple[dict[str, jax.Array], Learned]:
    """Matches the gradients of one class and one network.

    Returns:
      The summands of the matching loss by parameter, each `[]`, and the gradient of
      their sum with respect to what is learned.
    """
    network, slice_size = matching.recipe.network, matching.recipe.slice_size

    def gradient(inputs: Learned, slice_size: int, weights: jax.Array | None = None):
        if isinstance(inputs, tuple):
            images, labels = inputs
        else:
            images, labels = inputs, jnp.broadcast_to(label, inputs.shape[:1])
        return mean_gradient(
            network, variables, images, labels, slice_size=slice_size, weights=weights
        )

    def distance(grads_syn: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        distances = match_distances(grads_syn, grads_real, matching.distance)
        return sum(distances.values()), distances

    grads_real = gradient(augment(real), slice_size)

    def form(learned: Learned) -> Learned:
        if not isinstance(learned, tuple):
            return augment(decode(learned, matching.factor))
        images, labels = learned
        return form(images), labels.repeat(matching.factor**2, axis=0)

    formed, form_back = jax.vjp(form, learned)
    grads, distances = second_order(
        gradient, distance, formed, weights, slice_size=slice_size
    )
    return distances, form_back(grads)[0]
