"""Batch norm while gradients are matched."""

from typing import Any

import flax.linen as nn
import jax

from dc_jax.base import Offsets
from dc_jax.data.store import ClassStore, sample_classes

# Real images per class that set the statistics, as in the authors' code.
BATCH_NORM_IMAGES = 16


def freeze_batch_norm(
    network: nn.Module, variables: dict[str, Any], store: ClassStore, key: jax.Array
) -> tuple[dict[str, Any], Offsets]:
    """Moves the running statistics of a network towards those of real images.

    The authors' code does so before each matching, which then uses the statistics as
    constants: one pass over real images of all classes in training mode.

    Returns the variables, and the offsets of the real images; those of networks without
    batch norm as they are, with None.
    """
    if "batch_stats" not in variables:
        return variables, None
    real, offsets = sample_classes(store, key, BATCH_NORM_IMAGES)
    flat = real.reshape(-1, *real.shape[2:])
    _, updated = network.apply(variables, flat, train=True, mutable=["batch_stats"])
    return {**variables, **updated}, offsets
