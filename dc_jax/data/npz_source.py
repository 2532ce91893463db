"""Reads a dataset from one `.npz` file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dc_jax.data.facts import number_names
from dc_jax.data.labels import read_labels
from dc_jax.errors import UserError
from dc_jax.files.content import is_text, names_of, read_npz

# The names that a file may have for training images and labels, test images and labels:
# those of this project and MedMNIST, those of Keras, and names without a test split.
_FAMILIES = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("images", "labels"),
)


def read_npz_dataset(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads all images of a file of `numpy.savez` or `savez_compressed` into memory.

    Images are `[n, H, W]` or `[n, H, W, D]`, uint8, or float in [0, 1]; labels as
    `read_labels` describes them. `class_names`, `[C]`, is optional.

    Returns:
      `train_images` of shape `[n, H, W, D]` uint8 or float32 and `train_labels` of
      shape `[n]` int32, `test_images` and `test_labels` too where there are any; and
      the names of the classes.

    Raises:
      UserError: the file cannot be read, or an array is of another kind.
    """
    held = names_of(path)
    families = [names for names in _FAMILIES if held.issuperset(names[:2])]
    if not families:
        known = " or ".join(" and ".join(names[:2]) for names in _FAMILIES)
        got = ", ".join(sorted(held))
        raise UserError(f"{path} has the arrays {got}; must have {known}.")
    names = [name for name in families[0] if name in held]
    if len(names) == 3:
        problem = f"{names[2]} alone; must have both images and labels"
        raise UserError(f"{path} has {problem}.")
    arrays = read_npz(path, names, ("class_names",), compressed=True)
    class_names = list_class_names(arrays.get("class_names"), path)
    result = {}
    for split, pair in (("train", names[:2]), ("test", names[2:])):
        if pair:
            images, labels, class_names = check_split(
                *(arrays[name] for name in pair), path, pair, class_names
            )
            result |= {f"{split}_images": images, f"{split}_labels": labels}
    return result, check_class_names(class_names, result["train_labels"], path)


def check_split(
    images: np.ndarray,
    labels: np.ndarray,
    place: Path | str,
    names: Sequence[str] = ("images", "labels"),
    class_names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]:
    """Returns images and labels as `Dataset` has them, from those of a file.

    `place`, the file or argument, and `names`, of the two arrays, are for errors. The
    third is what `read_labels` says about the classes.

    Raises:
      UserError: an array is of another kind, or their numbers differ.
    """
    images = _check_images(images, f"{place}: {names[0]}")
    labels, class_names = read_labels(labels, f"{place}: {names[1]}", class_names)
    if len(images) != len(labels):
        raise UserError(
            f"{place}: {names[1]} has {len(labels)} labels, must have {len(images)} as "
            f"{names[0]} has images."
        )
    return images, labels, class_names


def _check_images(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 3:
        array = array[..., np.newaxis]
    shape = list(array.shape)
    if array.ndim != 4 or 0 in shape:
        wanted = "[n, H, W] or [n, H, W, D], without a zero"
        raise UserError(f"{name} must be {wanted}, got {shape}.")
    if shape[1] in (1, 3) and min(shape[2:]) > 4:
        raise UserError(
            f"{name} must be [n, H, W, D], got {shape}, which has the channels first: "
            "numpy.moveaxis(images, 1, -1)."
        )
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{name} must be uint8, or float in [0, 1], got {array.dtype}.")
    with np.errstate(all="ignore"):  # Dataset refuses infinities.
        return array.astype(np.float32)


def list_class_names(
    names: np.ndarray | None, place: Path | str
) -> tuple[str, ...] | None:
    """Returns the names of the classes in an array, `[C]`; None where there is none.

    Raises:
      UserError: the names are not strings.
    """
    if names is None:
        return None
    if names.ndim != 1 or not is_text(names):
        got = f"{names.dtype} {list(names.shape)}"
        raise UserError(f"{place}: class_names must be strings [C], got {got}.")
    return tuple(names.tolist())


def check_class_names(
    names: Sequence[str] | None, labels: np.ndarray, path: Path | str
) -> tuple[str, ...]:
    """Returns the names of the classes; by default the labels as text.

    Raises:
      UserError: there are too few for the labels `[n]`.
    """
    # Dataset refuses an empty array with a better message.
    num_classes = int(labels.max(initial=0)) + 1
    if num_classes > max(len(labels), 1):
        raise UserError(
            f"{path}: the {len(labels)} training labels must be below {len(labels)}, "
            f"so that every class can have an image, got {num_classes - 1}."
        )
    if names is None:
        return number_names(num_classes)
    if len(names) < num_classes:
        wanted = f"{num_classes} strings, as there are labels to {num_classes - 1}"
        raise UserError(f"{path}: class_names must be {wanted}, got {len(names)}.")
    return tuple(names)
