"""Makes sets of images: those that a method has condensed, and real ones."""

import json
from collections.abc import Sequence

import jax
import numpy as np
import optax

from dc_jax.base import CondenseState, SyntheticSet, make_labels
from dc_jax.data.dataset import Dataset
from dc_jax.data.formation import decode


def make_sets(
    state: CondenseState,
    dataset: Dataset,
    class_ipc: Sequence[int],
    factor: int = 1,
) -> list[SyntheticSet]:
    """Returns the sets of all experiments of a state, whose leaves are `[E, ...]`.

    `class_ipc` `[C]` are the numbers of images of each class of the dataset, and each
    image holds factor x factor others.
    """
    labels = make_labels(class_ipc)
    sets = [
        make_set(images, dataset, labels).replace(factor=factor)
        for images in np.asarray(state.images)
    ]
    if state.labels is not None:
        nearest = np.asarray(nearest_probabilities(state.labels), np.float32)
        nearest = np.where(labels[..., None] >= 0, nearest, 0)
        sets = [
            one.replace(soft_labels=s) for one, s in zip(sets, nearest, strict=True)
        ]
    if state.raw_lrs is None:
        return sets
    rates = np.asarray(jax.nn.softplus(state.raw_lrs), np.float32)
    return [one.replace(learning_rates=r) for one, r in zip(sets, rates, strict=True)]


def nearest_probabilities(labels: jax.Array) -> jax.Array:
    """Returns the probabilities that are nearest to learned labels, `[..., C]`."""
    flat = labels.reshape(-1, labels.shape[-1])
    nearest = jax.vmap(optax.projections.projection_simplex)(flat)
    return nearest.reshape(labels.shape)


def make_set(
    images: np.ndarray, dataset: Dataset, labels: np.ndarray | None = None
) -> SyntheticSet:
    """Returns the images `[C, I, H, W, D]` with what is needed to use them.

    They are normalised, and maybe whitened, as the dataset that they were made from
    says, and 0 in blank slots. Labels `[C, I]` are None where there are none.
    """
    if labels is None:
        labels = make_labels((images.shape[1],) * len(images))
    return SyntheticSet(
        images=np.asarray(images, np.float32),
        labels=labels,
        mean=dataset.mean,
        std=dataset.std,
        class_names=dataset.class_names,
        whitening=dataset.whitening,
    )


def decode_set(synthetic: SyntheticSet) -> SyntheticSet:
    """Returns the set of the images that networks are trained on, whose factor is 1.

    Its recipe has the factor of before, `decoded_factor`.
    """
    factor = synthetic.factor
    if factor == 1:
        return synthetic
    images = [np.asarray(decode(of_class, factor)) for of_class in synthetic.images]

    def repeat(array: np.ndarray) -> np.ndarray:
        return np.asarray(array).repeat(factor**2, axis=1)

    labels, soft_labels = synthetic.labels, synthetic.soft_labels
    recipe = {**json.loads(synthetic.recipe or "{}"), "decoded_factor": factor}
    return synthetic.replace(
        images=np.stack(images),
        labels=repeat(labels),
        soft_labels=None if soft_labels is None else repeat(soft_labels),
        factor=1,
        recipe=json.dumps(recipe),
    )
