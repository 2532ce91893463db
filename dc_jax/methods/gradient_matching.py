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
                g_syn  = gradient of the loss on the I synthetic images of c
                S_c   <- S_c - sgd(gradient of D(g_syn, g_real))
            theta <- sgd on all synthetic images, `inner_loop` epochs

With M > 1 networks the matching loss is the mean over them, which is this project's
generalisation; M = 1 is the paper.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dc_jax.base import CondenseState, Method
from dc_jax.config import Config
from dc_jax.data.store import ClassStore, class_keys, sample_class, sample_classes
from dc_jax.execution import Execution
from dc_jax.matching import match_loss
from dc_jax.methods.draws import (
    BATCH_NORM_IMAGES,
    make_draws,
    match_keys,
    outer_keys,
    step_keys,
)
from dc_jax.parallel import ONE_DEVICE, WHOLE, Axis, Layout
from dc_jax.train import Recipe, TrainState, batched, init_state, mean_gradient, train


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
    """

    recipe: Recipe
    distance: str
    batch_real: int
    optimiser: optax.GradientTransformation
    num_networks: int
    network_loop: str
    layout: Layout = ONE_DEVICE


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns gradient matching as a method.

    Args:
      config: the run.
      network: the module to match gradients of.
      execution: how to run it on this backend.
    """
    outer_loop, inner_loop = config.loops()
    matching = Matching(
        recipe=inner_recipe(config, network, execution),
        distance=config.distance,
        batch_real=config.batch_real,
        optimiser=optax.sgd(config.lr_img, config.momentum_img or None),
        num_networks=config.num_networks,
        network_loop=execution.network_loop,
        layout=execution.layout,
    )

    def init(store: ClassStore, key: jax.Array) -> CondenseState:
        images = init_images(
            store,
            key,
            ipc=config.ipc,
            kind=config.init,
            devices=execution.layout.classes,
        )
        return CondenseState(images, matching.optimiser.init(images))

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
            state, networks, loss = match_step(
                matching, state, networks, store, match_key
            )
            return (state, networks), loss

        (state, _), losses = jax.lax.scan(
            outer_step, (state, networks), jnp.arange(outer_loop)
        )
        # Reported as the authors' code does: a class, an outer step.
        return state, {"loss": jnp.mean(losses) / state.images.shape[0]}

    return Method(init, step, *make_draws(config, network))


def inner_recipe(config: Config, network: nn.Module, execution: Execution) -> Recipe:
    """Returns how networks are trained on the synthetic images."""
    return Recipe(
        network=network,
        optimiser=optax.sgd(config.lr_net, config.momentum_net or None),
        batch_size=config.batch_train,
        slice_size=execution.slice_size,
        devices=execution.layout.classes,
    )


def init_images(
    store: ClassStore, key: jax.Array, *, ipc: int, kind: str, devices: Axis = WHOLE
) -> jax.Array:
    """Returns the images to begin with.

    Args:
      store: the real images.
      key: consumed.
      ipc: I.
      kind: `noise` (standard normal, as in the paper) or `real` images.
      devices: that share the classes.

    Returns:
      Shape `[C, I, H, W, D]`.
    """
    if kind == "noise":
        shape = (store.num_classes, ipc, *store.images.shape[1:])
        return jax.random.normal(key, shape)
    return sample_classes(store, key, ipc, devices)


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
    num_classes, ipc = images.shape[:2]
    labels = jnp.repeat(jnp.arange(num_classes), ipc)
    flat = images.reshape(num_classes * ipc, *images.shape[2:])

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
) -> tuple[CondenseState, TrainState, jax.Array]:
    """One update of the images, equation 8 with the distance of equation 9.

    Args:
      matching: how.
      state: the images `[C, I, H, W, D]` and their optimiser.
      networks: leaves `[M, ...]`.
      store: the real images.
      key: consumed.

    Returns:
      The new state, the networks (batch norm has new statistics), and the matching
      loss, summed over classes and averaged over networks. Shape `[]`.
    """
    num_classes = state.images.shape[0]
    layout = matching.layout
    labels, is_class = layout.classes.part(num_classes)
    _, is_network = layout.networks.part(matching.num_networks)

    def match_network(network: TrainState, key: jax.Array):
        statistics_key, real_key = match_keys(key)
        variables = set_batch_norm(matching, network.variables, store, statistics_key)

        def match_one(images: jax.Array, label: jax.Array, place: jax.Array, key):
            real = sample_class(store, key, place, matching.batch_real)
            return match_class(matching, variables, images, real, label)

        # One class after another: only one class's second-order graph in memory.
        losses, grads = batched(match_one, "map")(
            state.images[labels],
            labels,
            jnp.arange(len(labels)),
            class_keys(store, real_key)[labels],
        )
        loss = jnp.sum(jnp.where(is_class, losses, 0))
        return loss, grads, network._replace(variables=variables)

    losses, grads, networks = batched(match_network, matching.network_loop)(
        networks, network_keys(matching, key)
    )
    # The mean over all networks, of which some may be here in vain.
    weights = is_network / matching.num_networks
    grads = layout.networks.sum(jnp.tensordot(weights, grads, axes=1))
    grads = layout.classes.gather(grads, num_classes)
    loss = layout.classes.sum(layout.networks.sum(jnp.dot(weights, losses)))
    updates, opt_state = matching.optimiser.update(grads, state.opt_state, state.images)
    images = optax.apply_updates(state.images, updates)
    return CondenseState(images, opt_state), networks, loss


def match_class(
    matching: Matching,
    variables: dict[str, Any],
    images: jax.Array,
    real: jax.Array,
    label: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Matches the gradients of one class and one network.

    Args:
      matching: how.
      variables: of the network.
      images: synthetic images of the class. Shape `[I, H, W, D]`.
      real: real images of the class. Shape `[N, H, W, D]`.
      label: the class. Shape `[]`.

    Returns:
      The matching loss, `[]`, and its gradient with respect to `images`.
    """
    network, slice_size = matching.recipe.network, matching.recipe.slice_size

    def gradient(images: jax.Array, slice_size: int) -> Any:
        labels = jnp.broadcast_to(label, images.shape[:1])
        return mean_gradient(network, variables, images, labels, slice_size=slice_size)

    grads_real = gradient(real, slice_size)

    def loss(images: jax.Array) -> jax.Array:
        # At once: for the second order, every slice would be kept anyway.
        grads_syn = gradient(images, images.shape[0])
        return match_loss(grads_syn, grads_real, matching.distance)

    return jax.value_and_grad(loss)(images)


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
