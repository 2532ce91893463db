"""Types that every other module shares.

Axis glossary, used in every docstring of this package:

  M    networks at once
  C    classes
  I    synthetic images per class ("ipc"); the most of any class where they differ
  N    real images per class in a batch
  H W  pixels, rows and columns
  D    colour channels
  O    output units of a layer
  R    epochs of the training that dataset distillation differentiates
  T    outer steps of the algorithm
  n    images in all
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np
import optax

from dc_jax.data.store import ClassStore

Array = jax.Array | np.ndarray
Offsets = Any  # A tree of arrays [..., C, num].


@flax.struct.dataclass
class SyntheticSet:
    """A condensed dataset together with what is needed to use it.

    Images are kept class-major and normalised, exactly as they were condensed; pixels
    in [0, 1] are `images * std + mean`. A class with fewer images than another has
    blank slots after them: `keep = labels >= 0` says which slots hold an image.

    Attributes:
      images: `[C, I, H, W, D]` float32, normalised; 0 in blank slots.
      labels: `[C, I]` int32, the class index of each image; -1 in blank slots.
      mean: `[D]` float32, the mean that was subtracted, of pixels in [0, 1].
      std: `[D]` float32, the standard deviation that was divided by.
      class_names: the C names, in the order of the labels.
      indices: `[C, I]` int32, which images of the training split these are, -1 in
        blank slots; None where they are synthetic.
      learning_rates: `[R, I]` float32, those of dataset distillation, with which
        `train_unrolled` uses the images in their order; None for other methods.
      recipe: the text of a JSON object that says how networks were trained on the set,
        with which accuracy, and how it was made, as `artefact.make_recipe` writes it;
        None where that is unknown.
    """

    images: Array  # [C, I, H, W, D]
    labels: Array  # [C, I]
    mean: Array  # [D]
    std: Array  # [D]
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    indices: Array | None = None  # [C, I]
    learning_rates: Array | None = None  # [R, I]
    recipe: str | None = flax.struct.field(pytree_node=False, default=None)


def make_labels(class_ipc: Sequence[int]) -> np.ndarray:
    """Returns the `SyntheticSet.labels` of these numbers of images per class.

    `[C]` -> `[C, I]`.
    """
    is_image = np.arange(max(class_ipc)) < np.asarray(class_ipc)[:, None]
    labels = np.arange(len(class_ipc), dtype=np.int32)[:, None]
    return np.where(is_image, labels, np.int32(-1))


def flatten_set(images: Array, labels: np.ndarray) -> tuple[Array, np.ndarray]:
    """Returns the images of a set without its blank slots, and their labels.

    `[C, I, H, W, D]`, `[C, I]` -> `[n, H, W, D]`, `[n]`. The images may be traced: how
    many there are is known from the labels.
    """
    flat, flat_labels = images.reshape(-1, *images.shape[2:]), labels.reshape(-1)
    keep = flat_labels >= 0
    return (flat, flat_labels) if keep.all() else (flat[keep], flat_labels[keep])


@flax.struct.dataclass
class CondenseState:
    """What a gradient-based method carries from one iteration to the next.

    Attributes:
      images: `[C, I, H, W, D]` the synthetic images, normalised; 0 in blank slots, see
        `SyntheticSet`.
      opt_state: of the optimiser of the images, and of `raw_lrs`.
      raw_lrs: `[R, I]` the learned learning rates before softplus; None for methods
        that have none.
    """

    images: jax.Array  # [C, I, H, W, D]
    opt_state: optax.OptState  # leaves [C, I, H, W, D]
    raw_lrs: jax.Array | None = None  # [R, I]


class Method(NamedTuple):
    """A condensation method: two pure functions for one experiment.

    Both return `offsets`, what `sample_class` and `sample_classes` say they have drawn:
    a tree of arrays `[..., C, num]`. They must depend on the key and the store alone,
    and not on the state: so the images of the next iteration can be loaded while this
    one is computed.

    Attributes:
      init: `(store, key) -> (state, offsets)`, the synthetic images to begin with.
      step: `(state, store, key) -> (state, metrics, offsets)`, one iteration. Of the
        metrics `loss` is a scalar; `layers`, if it is there, has the summands of the
        loss by layer or parameter.
    """

    init: Callable[[ClassStore, jax.Array], tuple[CondenseState, Offsets]]
    step: Callable[
        [CondenseState, ClassStore, jax.Array],
        tuple[CondenseState, dict[str, Any], Offsets],
    ]
