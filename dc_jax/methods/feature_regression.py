"""Neural feature regression with a pool of networks (FRePo): images and their labels.

Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural Feature Regression",
NeurIPS 2022, https://arxiv.org/abs/2206.00719, algorithm 1, and the authors' code where
it says more (lib/datadistillation/frepo.py of https://github.com/yongchaoz/FRePo):

    a pool of P networks                               # `pool`
    for k in range(K):                                 # run/loop.py
        theta ~ the pool                               # `step` from here on
        K_pp, K_tp = products of the features that theta has of the synthetic images,
                     and of those of N real images of every class and these
        L = |K_tp (K_pp + lambda I)^-1 y - t|^2 / 2    # `regression_loss`
            + how much the margins of y are too small  # `margin_loss`
        S, y <- LAMB on the gradient of L
        theta <- one step of Adam on (S, y), or a fresh network if it is old

The classifier of theta is never used: kernel ridge regression finds the best one for
the synthetic images and their learned labels y in closed form, so that no training is
differentiated. Targets t and labels are centred: a class's is 1 - 1 / C in its own
place and -1 / C elsewhere. The state has y + 1 / C.

Every real batch has as many images of each class, where the authors' has 1,024 of any.
With M > 1 networks L is the mean over them, which is our generalisation.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dc_jax.base import CondenseState, Method, Offsets, make_labels
from dc_jax.config import Config
from dc_jax.data.facts import find_facts
from dc_jax.data.store import ClassStore, sample_classes
from dc_jax.devices.backend import Execution, batched
from dc_jax.methods.images import (
    Learned,
    check_no_augmentation,
    descend,
    learnable,
    make_init,
    mean_over_networks,
    training_set,
)
from dc_jax.methods.pool import make_pool, put, take, with_pool
from dc_jax.training.full_data import read_images
from dc_jax.training.train import Recipe, TrainState, squared_error, train_batch

_RIDGE = 1e-6  # Of the mean of the diagonal of K_pp.
_LAST_RATE = 0.1  # The learning rate falls to this fraction, as half a cosine.
# Fields of the config that it does not use.
UNUSED = (
    *("outer_loop", "inner_loop", "distance", "sampler", "momentum_img"),
    "momentum_net",
)


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns feature regression as a method, by the `embed` of the network.

    Devices that share the classes share the features of the real images.

    Raises:
      UserError: the config has an augmentation.
    """
    check_no_augmentation(config)
    networks, optimiser = execution.layout.networks, make_optimiser(config)
    recipe = make_recipe(config, network, execution)
    pool = make_pool(config, recipe)

    def step(
        state: CondenseState, store: ClassStore, key: jax.Array
    ) -> tuple[CondenseState, dict[str, Any], Offsets]:
        draw_key, real_key, train_key = jax.random.split(key, 3)
        own_labels = make_labels(config.class_ipc(store.num_classes))
        real, offsets = sample_classes(store, real_key, config.batch_real)
        places = pool.draw(draw_key, config.num_networks)
        mine, _ = networks.part(config.num_networks)
        drawn = take(state.pool, places[mine])

        def regress(network: TrainState):
            def loss(learned: Learned):
                prototypes = _prototypes(config, learned, own_labels)
                return _loss(config, execution, recipe, network, prototypes, real)

            return jax.value_and_grad(loss, has_aux=True)(learnable(state))

        results = batched(regress, execution.network_loop)(drawn)
        (loss, layers), grads = mean_over_networks(
            results, execution.layout, config.num_networks
        )
        state = descend(state, grads, optimiser)
        prototypes = _prototypes(config, learnable(state), own_labels)

        def go_on(network: TrainState, key: jax.Array) -> TrainState:
            fresh_key, batch_key = jax.random.split(key)
            train = functools.partial(train_once, recipe, *prototypes, key=batch_key)
            return pool.go_on(network, train, state.images[0], fresh_key)

        keys = jax.random.split(train_key, config.num_networks)[mine]
        changed = batched(go_on, execution.network_loop)(drawn, keys)
        state = state.replace(pool=put(state.pool, places, changed, networks))
        return state, {"loss": loss, "layers": layers}, offsets

    init = make_init(config, optimiser, network, execution, first_labels)
    return Method(with_pool(init, pool), step)


def make_recipe(config: Config, network: nn.Module, execution: Execution) -> Recipe:
    """Returns how the networks of the pool are trained: to the labels of the set."""
    return Recipe(
        network=network,
        optimiser=optax.adam(config.lr_net),
        batch_size=config.batch_train,
        slice_size=execution.slice_size,
        devices=execution.layout.classes,
        loss=squared_error,
    )


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Returns LAMB on images and labels, whose learning rate falls over the run."""
    steps = config.iterations
    return optax.lamb(optax.cosine_decay_schedule(config.lr_img, steps, _LAST_RATE))


def first_labels(labels: np.ndarray) -> jax.Array:
    """Returns the labels to begin with, `[C, I]` -> `[C, I, C]`; 0 in blank slots.

    Centred they are those of the classes, divided by the root of C / 10.
    """
    num_classes = len(labels)
    centred = jax.nn.one_hot(labels, num_classes) - 1 / num_classes
    scaled = centred / np.sqrt(num_classes / 10) + 1 / num_classes
    return jnp.where(labels[..., None] >= 0, scaled, 0)


def _loss(config, execution, recipe, network, prototypes, real):
    """Returns one network's loss, and its two summands."""
    images, labels = prototypes
    num_classes, num_real = real.shape[:2]
    flat = real.reshape(-1, *real.shape[2:])
    targets = jnp.repeat(jnp.arange(num_classes), num_real)
    size, variables = execution.slice_size, network.variables
    features, _ = read_images(
        recipe.network,
        variables,
        flat,
        slice_size=size,
        devices=execution.layout.classes,
    )
    margin = margin_loss(labels)
    if find_facts(config.dataset.name).is_flippable and images.shape[-1] > 1:
        images = jnp.concatenate([images, jnp.flip(images, axis=2)])
        labels = jnp.concatenate([labels, labels])
    own, _ = read_images(recipe.network, variables, images, slice_size=size)
    layers = {
        "margin": margin,
        "regression": regression_loss(features, targets, own, labels),
    }
    return sum(layers.values()), layers


def _prototypes(config, learned, own_labels):
    """Returns what networks are trained on, `[n, H, W, D]`, and its labels `[n, C]`."""
    is_pair = isinstance(learned, tuple)
    images, labels = learned if is_pair else (learned, first_labels(own_labels))
    return training_set(images, labels, own_labels, config.formation.factor)


def regression_loss(
    real: jax.Array,  # [N, F], features of real images
    targets: jax.Array,  # [N], their classes
    synthetic: jax.Array,  # [n, F], features of synthetic images
    labels: jax.Array,  # [n, C], theirs
) -> jax.Array:
    """Returns the mean error of kernel ridge regression, `[]`: the paper's equation 2.

    As in the authors' code the ridge is a fraction of the mean of the diagonal. The
    predictions are small sums of large numbers, so all products are of float32,
    whatever the precision of the run.
    """
    (num, num_features), num_classes = synthetic.shape, labels.shape[1]
    centred = labels - 1 / num_classes
    ridge = _RIDGE * jnp.sum(synthetic**2) / num
    with jax.default_matmul_precision("highest"):
        if num <= num_features:
            solution = _solve(synthetic @ synthetic.T, ridge, centred)
            predictions = (real @ synthetic.T) @ solution
        else:  # The same. The kernel has eigenvalues 0, and so small a ridge is lost.
            products = synthetic.T @ centred
            predictions = real @ _solve(synthetic.T @ synthetic, ridge, products)
    return jnp.mean(squared_error(predictions, targets))


def _solve(matrix: jax.Array, ridge: jax.Array, right: jax.Array) -> jax.Array:
    """Solves a positive definite system, with a ridge on the diagonal."""
    matrix = matrix + ridge * jnp.eye(len(matrix))
    return jax.scipy.linalg.solve(matrix, right, assume_a="pos")


def margin_loss(labels: jax.Array) -> jax.Array:
    """Returns the mean of what the margin of each label lacks to 1 / C, `[]`.

    The margin of a label `[C]` is that of its largest value over its second largest.
    The authors' code has the same, less the constant 1 / C.
    """
    largest, second = jax.lax.top_k(labels, 2)[0].T
    return jnp.mean(jax.nn.relu(1 / labels.shape[1] - (largest - second)))


def train_once(
    recipe: Recipe,
    images: jax.Array,  # [n, H, W, D]
    labels: jax.Array,  # [n, C]
    network: TrainState,
    *,
    key: jax.Array,
) -> TrainState:
    """Updates a network once, by at most `recipe.batch_size` of the images."""
    order_key, augment_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images))[: recipe.batch_size]
    network, _ = train_batch(
        recipe, network, images[order], labels[order], key=augment_key
    )
    return network
