"""Arrays of a caller as a dataset, checked."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from dc_jax.data.dataset import Dataset, channel_statistics, find_problem
from dc_jax.data.npz_source import check_class_names, check_split, list_class_names
from dc_jax.errors import UserError
from dc_jax.run.overrides import NAME


def make_dataset(
    images: ArrayLike, labels: ArrayLike, class_names: Sequence[str] | None
) -> Dataset:
    """Returns images to condense as a dataset, on which nothing is to be tested."""
    check_not_traced(images, labels)
    if isinstance(class_names, str):
        raise UserError(f"class_names must be several, got {class_names!r}.")
    names = None if class_names is None else np.asarray(class_names)
    images, labels, names = check_split(
        np.asarray(images),
        np.asarray(labels),
        NAME,
        class_names=list_class_names(names, NAME),
    )
    mean, std = channel_statistics(images)
    return Dataset(
        name=NAME,
        source="the caller",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        class_names=check_class_names(names, labels, NAME),
        mean=mean,
        std=std,
    )


def make_test_split(
    images: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    image_shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns test images and their labels, checked, as a `Dataset` has them.

    The class names and the shape of the images are those that are tested.
    """
    check_not_traced(images, labels)
    images, labels, _ = check_split(
        np.asarray(images),
        np.asarray(labels),
        NAME,
        ("test_images", "test_labels"),
        class_names,
    )
    problem = find_problem(images, labels, len(class_names), "test")
    if problem:
        raise UserError(f"{NAME}: {problem}.")
    if images.shape[1:] != image_shape:
        text = f"test_images must have the shape of the set's images, {image_shape}"
        raise UserError(f"{text}, got {images.shape[1:]}.")
    return images, labels


def check_not_traced(*arrays: Any) -> None:
    # A number made here is traced, too, where the call is.
    if any(isinstance(array, jax.core.Tracer) for array in (*arrays, jnp.add(0, 0))):
        raise RuntimeError("dc_jax cannot be called inside jit, vmap or grad.")
