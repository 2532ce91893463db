"""The paper's networks, by the names of the authors' code."""

from dc_jax.networks.convnet import (
    convnet_depth,
    default_depth,
    set_member,
    shape_name,
    split_names,
)
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
    "set_member",
    "shape_name",
    "split_names",
    "without_batch_norm",
]
