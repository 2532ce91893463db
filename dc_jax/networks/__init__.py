"""The paper's networks, by the names of the authors' code."""

from dc_jax.networks.convnet import convnet_depth, default_depth
from dc_jax.networks.registry import (
    NETWORKS,
    Entry,
    has_batch_norm,
    make_network,
    network_names,
    without_batch_norm,
)

__all__ = [
    "NETWORKS",
    "Entry",
    "convnet_depth",
    "default_depth",
    "has_batch_norm",
    "make_network",
    "network_names",
    "without_batch_norm",
]
