"""Trains a network by steps that each have their own images and learning rate.

Dataset distillation differentiates through this training, and its sets are used by it
afterwards: Wang, Zhu, Torralba and Efros, "Dataset Distillation", 2018,
https://arxiv.org/abs/1811.10959, algorithm 1.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.training.train import cross_entropy

# Not flax's `xavier_normal`, which cuts the tails off.
_xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


def init_xavier(
    network: nn.Module, key: jax.Array, images: jax.Array
) -> dict[str, Any]:
    """Returns fresh variables: Xavier-normal kernels of gain 1, and biases of 0.

    Everything else is initialised as usual. Any images `[n, H, W, D]` will do.
    """
    rest_key, kernel_key = jax.random.split(key)

    def redraw(path: tuple[Any, ...], leaf: jax.Array, key: jax.Array) -> jax.Array:
        if path[-1].key == "kernel":
            return _xavier_normal(key, leaf.shape, leaf.dtype)
        return jnp.zeros_like(leaf) if path[-1].key == "bias" else leaf

    variables = network.init(rest_key, images)
    treedef = jax.tree.structure(variables)
    keys = treedef.unflatten(jax.random.split(kernel_key, treedef.num_leaves))
    return jax.tree_util.tree_map_with_path(redraw, variables, keys)


def train_unrolled(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,  # [C, I, H, W, D], normalised
    labels: jax.Array,  # [C, I]
    learning_rates: jax.Array,  # [R, I], of the steps of each epoch
) -> dict[str, Any]:
    """Trains a network by I steps of gradient descent per epoch.

    Step i trains on image i of every class. Batch norm, if there is any, uses the
    statistics of the step's images. Reverse-mode differentiation stores only the
    parameters of every step, and computes everything else again.
    """

    @jax.checkpoint
    def step(variables: dict[str, Any], inputs: tuple[jax.Array, ...]):
        images, labels, learning_rate = inputs

        def loss(params: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
            own = {**variables, "params": params}
            logits, updated = network.apply(
                own, images, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(cross_entropy(logits, labels)), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(
            lambda leaf, grad: leaf - learning_rate * grad, variables["params"], grads
        )
        return {**variables, **updated, "params": params}, None

    by_step = jnp.moveaxis(images, 1, 0), jnp.moveaxis(labels, 1, 0)

    def epoch(variables: dict[str, Any], learning_rates: jax.Array):
        return jax.lax.scan(step, variables, (*by_step, learning_rates))

    variables, _ = jax.lax.scan(epoch, variables, learning_rates)
    return variables
