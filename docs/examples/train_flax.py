"""Trains a Flax network on condensed digits: train_flax.py RUN_FOLDER"""

import json
import sys

import jax
import optax
from digits import load_tests

import dc_jax
from dc_jax.networks import make_network

s = dc_jax.load_synthetic_set(sys.argv[1])
recipe = json.loads(s.recipe)["training"]
images, labels = (array[s.labels >= 0] for array in (s.images, s.labels))
# A `flax.linen.Module`, that of the recipe. Any other will do.
network = make_network(recipe["network"], len(s.class_names), images.shape[1:])
params = network.init(jax.random.key(0), images[:1])
lr = optax.piecewise_constant_schedule(recipe["lr"], {recipe["epochs"] // 2 + 2: 0.1})
decay, sgd = recipe["weight_decay"], optax.sgd(lr, recipe["momentum"])
optimiser = optax.chain(optax.add_decayed_weights(decay), sgd)


def loss(params):
    logits = network.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def epoch(_, state):  # The set is one batch.
    params, opt_state = state
    updates, opt_state = optimiser.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


state = (params, optimiser.init(params))
params, _ = jax.lax.fori_loop(0, recipe["epochs"] + 1, epoch, state)
tests, answers = load_tests(s.mean, s.std)
right = network.apply(params, tests).argmax(-1) == answers
print(f"test accuracy {right.mean():.1%}")
