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
  V    values of an image, H * W * D
  n    images in all
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np
import optax

from dc_jax.data.store import ClassStore
from dc_jax.data.whitening import Whitening

Array = jax.Array | np.ndarray
Offsets = Any  # A tree of arrays [..., C, num].


@flax.struct.dataclass
class SyntheticSet:
    """A condensed dataset together with what is needed to use it.

    Images are kept class-major and normalised, exactly as they were condensed; pixels
    in [0, 1] are `images * std + mean`. With a whitening they are whitened too, and
    pixels are `whitening.unwhiten(images) * std + mean`. A class with fewer images than
    another has blank slots after them: `keep = labels >= 0` says which slots hold an
    image.
    """

    # [C, I, H, W, D] float32, as networks see them; 0 in blank slots.
    images: Array
    labels: Array  # [C, I] int32, the class index of each image; -1 in blank slots.
    mean: Array  # [D] float32, that was subtracted, of pixels in [0, 1].
    std: Array  # [D] float32, the standard deviation that was divided by.
    # C names, in the order of the labels.
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    # [C, I] int32, which images of the training split these are, -1 in blank slots;
    # None where they are synthetic.
    indices: Array | None = None
    # [R, I] float32, those of dataset distillation, with which `train_unrolled` uses
    # the images in their order; None for other methods.
    learning_rates: Array | None = None
    # [C, I, C] float32, the probabilities that networks are trained to give to each
    # class for each image, 0 in blank slots; None where these are the labels alone.
    soft_labels: Array | None = None
    # That the images, and test images, are whitened with; None where they are not.
    whitening: Whitening | None = None
    # Each image holds factor x factor others, see `decode_set`.
    factor: int = flax.struct.field(pytree_node=False, default=1)
    # The text of a JSON object that says how networks were trained on the set, with
    # which accuracy, and how it was made, see `card.make_recipe`; None where unknown.
    recipe: str | None = flax.struct.field(pytree_node=False, default=None)

    def __repr__(self) -> str:
        # Not the arrays. JAX makes such objects with others in the place of arrays.
        shape = getattr(self.images, "shape", ())
        if len(shape) != 5:
            return f"SyntheticSet({self.images!r:.40})"
        classes, ipc, *image = shape
        size = "x".join(map(str, image))
        return f"SyntheticSet({classes} classes of {ipc} images, {size} pixels)"


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
    many there are is known from the labels. Other arrays `[C, I, ...]` may be given in
    the place of the images, such as soft labels.
    """
    flat, flat_labels = images.reshape(-1, *images.shape[2:]), labels.reshape(-1)
    keep = flat_labels >= 0
    return (flat, flat_labels) if keep.all() else (flat[keep], flat_labels[keep])


def stored_bytes(num_images: int, image_shape: Sequence[int], num_soft: int = 0) -> int:
    """Returns how many bytes the images of a set and their labels take.

    There is a byte for each value of an image `[H, W, D]`, and four for each of the
    `num_soft` probabilities of an image. Other labels follow from the order of the
    images, and take none. Nor do mean, standard deviation and whitening, which follow
    from the training images.
    """
    return num_images * (math.prod(image_shape) + 4 * num_soft)


@flax.struct.dataclass
class CondenseState:
    """What a gradient-based method carries from one iteration to the next."""

    images: jax.Array  # [C, I, H, W, D] normalised; 0 in blank slots of `SyntheticSet`.
    opt_state: optax.OptState  # Of the optimiser of all that is learned.
    raw_lrs: jax.Array | None = None  # [R, I] learned rates before softplus, if any.
    # [C, I, C] learned labels, if any: the probabilities of a set are the nearest ones.
    labels: jax.Array | None = None
    # [] the learning rate of training on the images, if it is learned.
    student_lr: jax.Array | None = None
    # [] int32, the iterations so far, where the method needs to know.
    iteration: jax.Array | None = None
    pool: Any = None  # A tree of arrays [P, ...], networks that go on training, if any.


class Method(NamedTuple):
    """A condensation method: two pure functions for one experiment.

    Both return `offsets`, what `draw_offsets` and `sample_classes` have drawn:
    a tree of arrays `[..., C, num]`. They must depend on the key and the store alone,
    and not on the state: so the images of the next iteration can be loaded while this
    one is computed.
    """

    # `(store, key) -> (state, offsets)`, the synthetic images to begin with.
    init: Callable[[ClassStore, jax.Array], tuple[CondenseState, Offsets]]
    # `(state, store, key) -> (state, metrics, offsets)`, one iteration. The metrics are
    # scalars, `loss` among them; `layers`, if it is there, has the summands of the loss
    # by layer or parameter. All are kept in `metrics.jsonl`.
    step: Callable[
        [CondenseState, ClassStore, jax.Array],
        tuple[CondenseState, dict[str, Any], Offsets],
    ]
    # After which epochs of training on the whole training set `store.experts` has the
    # variables of networks, each as one vector; 0 is before the first. Where there are
    # none the store has no experts.
    snapshots: tuple[int, ...] = ()
