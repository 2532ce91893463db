"""Datasets: where they come from, and how batches of one class are drawn from them."""

from dc_jax.data.dataset import Dataset
from dc_jax.data.sources import load_dataset
from dc_jax.data.store import (
    ClassStore,
    denormalise,
    make_store,
    normalise,
    sample_class,
)

__all__ = [
    "ClassStore",
    "Dataset",
    "denormalise",
    "load_dataset",
    "make_store",
    "normalise",
    "sample_class",
]
