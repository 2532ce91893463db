"""Dataset condensation with gradient matching: the paper's algorithm 1.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021,
https://openreview.net/forum?id=mSAKhLYLSsl. Follows the authors' code where it differs:
one update of the images for each of the T outer steps, and no training of the networks
after the last one.

    for k in range(K):                                 # loop.py
        theta ~ P(theta_0)                             # `step` from here on
        for t in range(T):
            for every class c:                         # `match_class`
                g_real = gradient of the loss on N real images of c
                g_syn  = gradient of the loss on the synthetic images of c
                S_c   <- S_c - sgd(gradient of D(g_syn, g_real))
            theta <- sgd on all synthetic images, `inner_loop` epochs

With `augmentation`, both gradients of a class are those of images that one draw of
differentiable Siamese augmentation has changed alike, and the networks are trained on
augmented images: Zhao and Bilen, "Dataset Condensation with Differentiable Siamese
Augmentation" (DSA), ICML 2021, https://arxiv.org/abs/2102.08259.

Classes may have different numbers of synthetic images: the others' slots are blank and
weigh nothing in the mean that the loss of a class is.

With M > 1 networks the matching loss is the mean over them, which is this project's
generalisation; M = 1 is the paper.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from dc_jax.base import LAYER, CondenseState, Method, flatten_set, make_labels
from dc_jax.config import SIAMESE_PREFIX, Config
from dc_jax.data.store import (
    ClassStore,
    class_keys,
    draw_classes,
    sample_class,
    sample_classes,
)
from dc_jax.devices.backend import Execution, batched
from dc_jax.devices.layout import ONE_DEVICE, Layout
from dc_jax.methods.distances import match_distances
from dc_jax.methods.images import (
    Draws,
    make_init,
    make_optimiser,
    slot_weights,
    update_images,
)
from dc_jax.training import augment_siamese
from dc_jax.training.train import Recipe, TrainState, init_state, mean_gradient, train

# Real images a class that set the statistics of batch norm, as in the authors' code.
BATCH_NORM_IMAGES = 16


def step_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of a step's fresh networks and of its outer steps."""
    init_key, loop_key = jax.random.split(key)
    return init_key, loop_key


def outer_keys(loop_key: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of outer step `t`, of training the networks and of matching."""
    train_key, match_key = jax.random.split(jax.random.fold_in(loop_key, t))
    return train_key, match_key


def match_keys(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the keys of a network's images.

    With the first those are drawn that set its batch norm, with the second those it is
    matched on; with the third these are augmented.
    """
    statistics_key, real_key, augment_key = jax.random.split(key, 3)
    return statistics_key, real_key, augment_key


def make_step_draws(config: Config, network: nn.Module) -> Draws:
    """Returns `step_draws` of gradient matching, see `Method`."""

    def step_draws(store: ClassStore, key: jax.Array) -> jax.Array:
        image = jax.ShapeDtypeStruct((1, *store.images.shape[1:]), jnp.float32)
        has_batch_norm = "batch_stats" in jax.eval_shape(network.init, key, image)
        _, loop_key = step_keys(key)

        def of_network(key: jax.Array) -> jax.Array:
            statistics_key, real_key, _ = match_keys(key)
            offsets = [draw_classes(store, real_key, config.batch_real)]
            if has_batch_norm:
                offsets.append(draw_classes(store, statistics_key, BATCH_NORM_IMAGES))
            return jnp.concatenate(offsets, axis=1)

        def of_outer_step(t: jax.Array) -> jax.Array:
            _, match_key = outer_keys(loop_key, t)
            keys = jax.random.split(match_key, config.num_networks)
            return jax.lax.map(of_network, keys)

        # One after another: the scores of all of them are large.
        offsets = jax.lax.map(of_outer_step, jnp.arange(config.loops()[0]))
        return jnp.moveaxis(offsets, 2, 0).reshape(store.num_classes, -1)

    return step_draws


@dataclasses.dataclass(frozen=True)
class Matching:
    """What one outer step needs besides arrays.

    Attributes:
      recipe: how the networks are trained between outer steps.
      distance: between gradients, see `matching`.
      batch_real: N.
      optimiser: of the images.
      num_networks: M.
      network_loop: `vmap` or `map`, how the axis M is run.
      layout: the devices.
      augmentation: strategy of `siamese`, drawn for each class, network, outer step.
      ipc: synthetic images of each class where they differ; None where all have I.
    """

    recipe: Recipe
    distance: str
    batch_real: int
    optimiser: optax.GradientTransformation
    num_networks: int
    network_loop: str
    layout: Layout = ONE_DEVICE
    augmentation: str = "none"
    ipc: tuple[int, ...] | None = None

    def labels(self, images: jax.Array) -> np.ndarray:
        """Returns the labels of the images `[C, I, H, W, D]`, see `SyntheticSet`."""
        num_classes, ipc = images.shape[:2]
        return make_labels(self.ipc or (ipc,) * num_classes)


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns gradient matching as a method.

    Args:
      config: the run.
      network: the module to match gradients of.
      execution: how to run it on this backend.
    """
    outer_loop, inner_loop = config.loops()
    between = f"s, with {inner_loop} inner epoch(s) between them"
    logging.info(
        "An iteration has %d outer step%s.",
        *(outer_loop, between if outer_loop > 1 else ""),
    )
    matching = Matching(
        recipe=inner_recipe(config, network, execution),
        distance=config.distance,
        batch_real=config.batch_real,
        optimiser=make_optimiser(config),
        num_networks=config.num_networks,
        network_loop=execution.network_loop,
        layout=execution.layout,
        augmentation=config.augmentation,
        ipc=None if isinstance(config.ipc, int) else config.ipc,
    )
    init, init_draws = make_init(config, matching.optimiser, matching.layout.classes)

    def step(
        state: CondenseState, store: ClassStore, key: jax.Array
    ) -> tuple[CondenseState, dict[str, jax.Array]]:
        init_key, loop_key = step_keys(key)
        networks = init_networks(matching, state.images, init_key)

        def outer_step(carry, t):
            state, networks = carry
            train_key, match_key = outer_keys(loop_key, t)
            if outer_loop > 1:  # Trained before every outer step but the first.
                networks = train_networks(
                    matching,
                    networks,
                    state.images,
                    epochs=jnp.where(t > 0, inner_loop, 0),
                    key=train_key,
                )
            state, networks, distances = match_step(
                matching, state, networks, store, match_key
            )
            return (state, networks), distances

        (state, _), distances = jax.lax.scan(
            outer_step, (state, networks), jnp.arange(outer_loop)
        )
        # Reported as the authors' code does: a class, an outer step.
        num_classes = state.images.shape[0]
        layers = {
            f"{LAYER}{name}": jnp.mean(value) / num_classes
            for name, value in distances.items()
        }
        return state, {"loss": sum(layers.values()), **layers}

    return Method(init, step, init_draws, make_step_draws(config, network))


def inner_recipe(config: Config, network: nn.Module, execution: Execution) -> Recipe:
    """Returns how networks are trained on the synthetic images."""
    is_augmented = config.augmentation != "none"
    return Recipe(
        network=network,
        optimiser=optax.sgd(config.lr_net, config.momentum_net or None),
        batch_size=config.batch_train,
        slice_size=execution.slice_size,
        augmentation=SIAMESE_PREFIX + config.augmentation if is_augmented else "none",
        devices=execution.layout.classes,
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
    epochs: jax.Array,
    key: jax.Array,
) -> TrainState:
    """Trains the M networks on the synthetic images `[C, I, H, W, D]`."""
    flat, labels = flatten_set(images, matching.labels(images))
    labels = jnp.asarray(labels)

    def train_one(state: TrainState, key: jax.Array) -> TrainState:
        return train(matching.recipe, state, flat, labels, epochs=epochs, key=key)

    keys = network_keys(matching, key)
    return batched(train_one, matching.network_loop)(networks, keys)


def match_step(
    matching: Matching,
    state: CondenseState,
    networks: TrainState,
    store: ClassStore,
    key: jax.Array,
) -> tuple[CondenseState, TrainState, dict[str, jax.Array]]:
    """One update of the images, equation 8 with the distance of equation 9.

    Args:
      matching: how.
      state: the images `[C, I, H, W, D]` and their optimiser.
      networks: leaves `[M, ...]`.
      store: the real images.
      key: consumed.

    Returns:
      The new state, the networks (batch norm has new statistics), and the summands of
      the matching loss by parameter, summed over classes and averaged over networks,
      each `[]`.
    """
    num_classes = state.images.shape[0]
    layout = matching.layout
    labels, is_class = layout.classes.part(num_classes)
    weights = slot_weights(matching.labels(state.images))

    def match_network(network: TrainState, key: jax.Array):
        statistics_key, real_key, augment_key = match_keys(key)
        variables = set_batch_norm(matching, network.variables, store, statistics_key)

        def match_one(images, label, place, sample_key, siamese_key, weights):
            real = sample_class(store, sample_key, place, matching.batch_real)
            augment = augment_siamese.make_siamese(
                siamese_key, matching.augmentation, images.shape[1:]
            )
            return match_class(
                *(matching, variables, images, real, label, augment), weights=weights
            )

        # One class after another: only one class's second-order graph in memory.
        losses, grads = batched(match_one, "map")(
            state.images[labels],
            labels,
            jnp.arange(len(labels)),
            class_keys(store, real_key)[labels],
            class_keys(store, augment_key)[labels],
            None if weights is None else jnp.asarray(weights)[labels],
        )
        loss = jax.tree.map(lambda of: jnp.sum(jnp.where(is_class, of, 0)), losses)
        return loss, grads, network._replace(variables=variables)

    losses, grads, networks = batched(match_network, matching.network_loop)(
        networks, network_keys(matching, key)
    )
    state, loss = update_images(
        state,
        losses,
        grads,
        optimiser=matching.optimiser,
        layout=layout,
        num_networks=matching.num_networks,
    )
    return state, networks, loss


def match_class(
    matching: Matching,
    variables: dict[str, Any],
    images: jax.Array,
    real: jax.Array,
    label: jax.Array,
    augment: Callable[[jax.Array], jax.Array],
    *,
    weights: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Matches the gradients of one class and one network.

    Args:
      matching: how.
      variables: of the network.
      images: synthetic images of the class. Shape `[I, H, W, D]`.
      real: real images of the class. Shape `[N, H, W, D]`.
      label: the class. Shape `[]`.
      augment: changes both kinds of images alike, see `make_siamese`.
      weights: of the synthetic images, see `slot_weights`. Shape `[I]`.

    Returns:
      The summands of the matching loss by parameter, each `[]`, and the gradient of
      their sum with respect to `images`.
    """
    network, slice_size = matching.recipe.network, matching.recipe.slice_size

    def gradient(
        images: jax.Array, slice_size: int, weights: jax.Array | None = None
    ) -> Any:
        labels = jnp.broadcast_to(label, images.shape[:1])
        return mean_gradient(
            *(network, variables, images, labels),
            slice_size=slice_size,
            weights=weights,
        )

    grads_real = gradient(augment(real), slice_size)

    def loss(images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        # At once: for the second order, every slice would be kept anyway.
        grads_syn = gradient(augment(images), images.shape[0], weights)
        distances = match_distances(grads_syn, grads_real, matching.distance)
        return sum(distances.values()), distances

    grads, distances = jax.grad(loss, has_aux=True)(images)
    return distances, grads


def set_batch_norm(
    matching: Matching, variables: dict[str, Any], store: ClassStore, key: jax.Array
) -> dict[str, Any]:
    """Freezes batch norm for matching, as the authors' code does.

    One pass over real images of all classes in training mode moves the running
    statistics; matching then uses them as constants. Networks without batch norm are
    returned as they are.
    """
    if "batch_stats" not in variables:
        return variables
    real = sample_classes(store, key, BATCH_NORM_IMAGES, matching.layout.classes)
    _, updated = matching.recipe.network.apply(
        variables,
        real.reshape(-1, *real.shape[2:]),
        train=True,
        mutable=["batch_stats"],
    )
    return {**variables, **updated}
