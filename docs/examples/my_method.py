"""A method from outside the package: it matches mean and variance of features.

    for k in range(K):                                # dc_jax does this
        theta ~ P(theta_0)                            # `step` from here on
        for every class c:                            # `class_loss`
            f_real = features of N real images of c
            f_syn  = features of the I synthetic images of c
            L_c    = |mean f_real - mean f_syn|^2 + |var f_real - var f_syn|^2
        S <- S - sgd(gradient of the sum of L_c)

Features are the inputs of the classifier of a random network.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from dc_jax.base import CondenseState, Method
from dc_jax.data.store import sample_classes
from dc_jax.devices.backend import batched
from dc_jax.methods import METHODS
from dc_jax.methods.images import check_equal_ipc, make_init, make_optimiser


def class_loss(network, variables, images, real):
    """Returns the loss of one class: `[I, H, W, D]`, `[N, H, W, D]` -> `[]`."""

    def moments(images):
        features = network.apply(variables, images, method="embed")  # [n, F]
        return jnp.stack([jnp.mean(features, axis=0), jnp.var(features, axis=0)])

    return jnp.sum((moments(images) - moments(real)) ** 2)


def make(config, network, execution):
    """Returns the method: two pure functions of one experiment, see `dc_jax.base`."""
    check_equal_ipc(config)
    optimiser = make_optimiser(config)

    def step(state, store, key):
        network_key, real_key = jax.random.split(key)
        real, offsets = sample_classes(store, real_key, config.batch_real)

        def loss(images):  # [C, I, H, W, D]
            def of_network(key):
                variables = network.init(key, images[0, :1])
                one = functools.partial(class_loss, network, variables)
                return jnp.sum(batched(one, execution.class_loop)(images, real))

            keys = jax.random.split(network_key, config.num_networks)
            return jnp.mean(batched(of_network, execution.network_loop)(keys))

        value, grads = jax.value_and_grad(loss)(state.images)
        updates, opt_state = optimiser.update(grads, state.opt_state)
        images = optax.apply_updates(state.images, updates)
        return CondenseState(images, opt_state), {"loss": value}, offsets

    return Method(make_init(config, optimiser, network, execution), step)


METHODS["moments"] = make
