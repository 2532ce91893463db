"""A method from outside the package: matching mean and variance of features.

    for k in range(K):                                # dc_jax does this
        theta ~ P(theta_0)                            # `step` from here on
        for every class c:                            # `class_loss`
            f_real = features of N real images of c
            f_syn  = features of the I synthetic images of c
            L_c    = |mean f_real - mean f_syn|^2 + |var f_real - var f_syn|^2
        S <- S - sgd(gradient of the sum of L_c)

Distribution matching (`dm`) without augmentation and with a second moment. Features are
what the classifier of a random network reads.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from dc_jax.base import CondenseState, Method, make_labels
from dc_jax.data.store import draw_classes, sample_classes
from dc_jax.devices.backend import batched
from dc_jax.methods import METHODS
from dc_jax.methods.images import make_init, make_optimiser


def class_loss(network, variables, images, weights, real):
    """Returns the loss of one class, `[]`.

    Args:
      network: the module.
      variables: of the network.
      images: synthetic images of the class. Shape `[I, H, W, D]`.
      weights: of these in means, 0 where there is none. Shape `[I]`.
      real: real images of the class. Shape `[N, H, W, D]`.
    """

    def moments(images, weights=None):
        features = network.apply(variables, images, method="embed")  # [n, F]
        mean = jnp.average(features, axis=0, weights=weights)  # [F]
        variance = jnp.average((features - mean[None]) ** 2, axis=0, weights=weights)
        return jnp.stack([mean, variance])

    return jnp.sum((moments(images, weights) - moments(real)) ** 2)


def make(config, network, execution):
    """Returns the method: pure functions of one experiment, see `dc_jax.base`."""
    optimiser, devices = make_optimiser(config), execution.layout.classes
    init, init_draws = make_init(config, optimiser, devices)

    def step(state, store, key):
        network_key, real_key = jax.random.split(key)
        real = sample_classes(store, real_key, config.batch_real, devices)

        # Classes may have different numbers of images: 0 for slots without one.
        weights = jnp.float32(make_labels(config.class_ipc(store.num_classes)) >= 0)

        def loss(images):  # [C, I, H, W, D]
            def of_network(key):
                variables = network.init(key, images[0, :1])
                one = functools.partial(class_loss, network, variables)
                return jnp.sum(batched(one, "map")(images, weights, real))

            keys = jax.random.split(network_key, config.num_networks)
            return jnp.mean(batched(of_network, execution.network_loop)(keys))

        value, grads = jax.value_and_grad(loss)(state.images)
        updates, opt_state = optimiser.update(grads, state.opt_state)
        images = optax.apply_updates(state.images, updates)
        return CondenseState(images, opt_state), {"loss": value}

    def step_draws(store, key):  # Which real images `step` will draw.
        _, real_key = jax.random.split(key)
        return draw_classes(store, real_key, config.batch_real)

    return Method(init, step, init_draws, step_draws)


METHODS["moments"] = make
