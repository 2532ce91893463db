"""The labels that networks trained on the whole training set give to images.

Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory
Matching" (DATM), ICLR 2024, https://arxiv.org/abs/2310.05773, and the authors' code
(distill/DATM.py of https://github.com/NUS-HPC-AI-Lab/DATM). They take images that an
expert classifies rightly; we take any.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.base import make_labels
from dc_jax.config import Config
from dc_jax.data.store import ClassStore
from dc_jax.devices.backend import Execution
from dc_jax.methods.expert_networks import unraveller
from dc_jax.methods.images import one_hot, training_set
from dc_jax.training.full_data import read_images


def label_images(
    config: Config,
    network: nn.Module,
    execution: Execution,
    store: ClassStore,  # with experts
    images: jax.Array,  # [C, I, H, W, D]
) -> jax.Array:
    """Returns what the experts think at the end, `[C, I, C]`; 0 in blank slots.

    An image that holds others has the mean of their labels.
    """
    own_labels = make_labels(config.class_ipc(store.num_classes))
    factor = config.formation.factor
    flat, labels = training_set(images, None, own_labels, factor)
    unravel = unraveller(network, flat[:1])

    def read(vector: jax.Array) -> jax.Array:
        size = execution.slice_size
        _, logits = read_images(network, unravel(vector), flat, slice_size=size)
        return logits

    given = mean_labels(jax.lax.map(read, store.experts[:, -1]), labels)
    given = given.reshape(-1, factor**2, store.num_classes).mean(axis=1)
    return one_hot(own_labels).at[own_labels >= 0].set(given)


def mean_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the labels to begin with: the mean logits of experts, as probabilities.

    Of the logits `[E, n, C]` only those count that are right about the labels `[n]`;
    where none is, all do. Returns `[n, C]`.
    """
    is_right = jnp.argmax(logits, axis=-1) == labels[None]
    weights = jnp.where(jnp.any(is_right, axis=0)[None], is_right, True)[..., None]
    mean = jnp.sum(weights * logits, axis=0) / jnp.sum(weights, axis=0)
    return jax.nn.softmax(mean)
