"""Dataset distillation (DD): images that train a network in a few steps.

Wang, Zhu, Torralba and Efros, "Dataset Distillation", 2018,
https://arxiv.org/abs/1811.10959, algorithm 1 with random initial weights, and the
authors' code (https://github.com/SsnL/dataset-distillation) where it says more:

    for k in range(K):                                 # run/loop.py
        theta ~ P(theta_0), Xavier-normal              # `step` from here on
        for r in range(R), for i in range(I):          # `train_unrolled`
            theta <- theta - eta_ri * gradient of the loss on image i of every class
        L = loss of theta on real images               # `real_loss`
        S, eta <- Adam on the gradient of L through all R * I steps

The learning rates are eta = softplus(raw), so that they stay positive. With M > 1
networks L is the mean over them. Every real batch has as many images of each class,
where the authors' has 1,024 of any.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dc_jax.base import CondenseState, Method, Offsets
from dc_jax.config import Config
from dc_jax.data.facts import find_facts
from dc_jax.data.store import ClassStore, draw_offsets, take_images
from dc_jax.devices.backend import Execution, batched, fold_slices
from dc_jax.methods.images import (
    check_equal_ipc,
    check_no_augmentation,
    first_images,
    mean_over_networks,
)
from dc_jax.training.train import cross_entropy
from dc_jax.training.unrolled import init_xavier, train_unrolled

# Of the run, between two halvings of Adam's learning rate: 40 of the authors' 400
# epochs.
_DECAYS = 10
# Fields of the config that it does not use.
UNUSED = (
    "outer_loop",
    "inner_loop",
    "distance",
    "batch_train",
    "momentum_img",
    "lr_net",
    "momentum_net",
)

# Of images `[C, I, H, W, D]` and raw learning rates `[R, I]`.
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns dataset distillation as a method.

    Devices that share the classes all train every network, but each computes the loss
    on the real images of its own classes alone.

    Raises:
      UserError: the config has an augmentation, or classes with different numbers of
        images.
    """
    check_no_augmentation(config)
    num_steps = check_equal_ipc(config)
    optimiser, layout = make_optimiser(config), execution.layout

    def init(store: ClassStore, key: jax.Array) -> tuple[CondenseState, Offsets]:
        images, offsets = first_images(config, network, execution, store, key)
        # softplus(raw) = log(1 + e^raw) is the rate to begin with.
        raw = jnp.log(jnp.expm1(jnp.asarray(initial_rate(config), float)))
        raw_lrs = jnp.full((config.distillation.epochs, num_steps), raw, images.dtype)
        state = CondenseState(images, optimiser.init((images, raw_lrs)), raw_lrs)
        return state, offsets

    def step(
        state: CondenseState, store: ClassStore, key: jax.Array
    ) -> tuple[CondenseState, dict[str, Any], Offsets]:
        learned = (state.images, state.raw_lrs)

        def distil(key: jax.Array):
            loss, offsets = make_loss(config, network, execution, store, key)
            return jax.value_and_grad(loss, argnums=(0, 1))(*learned), offsets

        mine, _ = layout.networks.part(config.num_networks)
        results, offsets = batched(distil, execution.network_loop)(
            jax.random.split(key, config.num_networks)[mine]
        )
        mean = mean_over_networks(results, layout, config.num_networks)
        loss, grads = layout.classes.sum(mean)  # Of each device's classes.
        updates, opt_state = optimiser.update(grads, state.opt_state, learned)
        images, raw_lrs = optax.apply_updates(learned, updates)
        return CondenseState(images, opt_state, raw_lrs), {"loss": loss}, offsets

    return Method(init, step)


def make_loss(
    config: Config,
    network: nn.Module,
    execution: Execution,
    store: ClassStore,
    key: jax.Array,
) -> tuple[Loss, Offsets]:
    """Returns this device's part of one fresh network's outer loss.

    With it come the offsets of the real images, `[c, N]`.
    """
    init_key, real_key = jax.random.split(key)
    labels, is_class = execution.layout.classes.part(store.num_classes)
    offsets = draw_offsets(store, real_key, config.batch_real)
    take = functools.partial(take_images, store)
    real = jax.vmap(take)(jnp.arange(len(labels)), offsets)  # [c, N, H, W, D]
    num_real = store.num_classes * config.batch_real
    weights = jnp.repeat(is_class / num_real, config.batch_real)
    start = init_xavier(network, init_key, real[0, :1])

    def loss(images: jax.Array, raw_lrs: jax.Array) -> jax.Array:
        own_labels = jnp.arange(store.num_classes)[:, None]
        own_labels = jnp.broadcast_to(own_labels, images.shape[:2])
        rates = jax.nn.softplus(raw_lrs)
        trained = train_unrolled(network, start, images, own_labels, rates)
        return real_loss(
            network,
            trained,
            real.reshape(-1, *real.shape[2:]),
            jnp.repeat(labels, config.batch_real),
            weights,
            slice_size=execution.slice_size,
        )

    return loss, offsets


def real_loss(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,  # [n, H, W, D]
    labels: jax.Array,  # [n]
    weights: jax.Array,  # [n]
    *,
    slice_size: int,  # images at once; changes memory and speed only
) -> jax.Array:
    """Returns the weighted sum of the cross-entropies of images, `[]`."""

    # Of a slice no more than its images is kept for the gradient.
    @jax.checkpoint
    def add(total: jax.Array, batch: tuple[jax.Array, ...]) -> jax.Array:
        images, labels, weights = batch
        losses = cross_entropy(network.apply(variables, images), labels)
        return total + jnp.dot(weights, losses)

    return fold_slices(add, jnp.zeros(()), (images, labels, weights), slice_size)


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Returns Adam on images and raw learning rates.

    Its learning rate is halved after each tenth of the run.
    """

    def rate(count: jax.Array) -> jax.Array:
        return config.lr_img * 0.5 ** (_DECAYS * count // config.iterations)

    return optax.adam(rate, b1=0.5, b2=0.999)


def initial_rate(config: Config) -> float:
    """Returns what every learning rate begins with, by default the authors' value."""
    if config.distillation.lr is not None:
        return config.distillation.lr
    return find_facts(config.dataset.name).distillation_rate
