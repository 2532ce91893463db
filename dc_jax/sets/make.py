"""Makes sets of images: those that a method has condensed, and real ones."""

from collections.abc import Sequence

import jax
import numpy as np

from dc_jax.base import CondenseState, SyntheticSet, make_labels
from dc_jax.data.dataset import Dataset


def make_sets(
    state: CondenseState, dataset: Dataset, class_ipc: Sequence[int]
) -> list[SyntheticSet]:
    """Returns the set of each experiment of a state, whose leaves are `[E, ...]`.

    Args:
      state: of all experiments.
      dataset: that was condensed.
      class_ipc: the number of images of each of the C classes.
    """
    labels = make_labels(class_ipc)
    sets = [make_set(images, dataset, labels) for images in np.asarray(state.images)]
    if state.raw_lrs is None:
        return sets
    rates = np.asarray(jax.nn.softplus(state.raw_lrs), np.float32)
    return [one.replace(learning_rates=r) for one, r in zip(sets, rates, strict=True)]


def make_set(
    images: np.ndarray, dataset: Dataset, labels: np.ndarray | None = None
) -> SyntheticSet:
    """Returns the images `[C, I, H, W, D]` with what is needed to use them.

    Args:
      images: normalised; 0 in blank slots.
      dataset: that they were made from: it names the classes, and gives the mean and
        the standard deviation that the images are normalised by.
      labels: `[C, I]`; None where there are no blank slots.
    """
    if labels is None:
        num_classes, ipc = images.shape[:2]
        labels = make_labels((ipc,) * num_classes)
    return SyntheticSet(
        images=np.asarray(images, np.float32),
        labels=labels,
        mean=dataset.mean,
        std=dataset.std,
        class_names=dataset.class_names,
    )
