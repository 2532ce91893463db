"""Labels as people have them: integers, floats, strings, one-hot."""

from collections.abc import Sequence

import numpy as np

from dc_jax.data.facts import number_names
from dc_jax.errors import UserError, short_name
from dc_jax.files.content import is_text


def read_labels(
    array: np.ndarray, name: str, class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Returns labels as integers from 0, and what they say about the classes.

    Args:
      array: `[n]` or `[n, 1]`, integers from 0 (also as floats or bool) or strings; or
        one-hot, `[n, C]`.
      name: of the array, for errors.
      class_names: the C names, where they are known. Strings must be among them.

    Returns:
      The labels, `[n]` int32; and the names of the classes, None where nothing tells
      them. Without `class_names` those of strings are the strings, sorted.

    Raises:
      UserError: the labels are of another kind.
    """
    array = _plain(array, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf" and len(array):
        return _read_one_hot(array, name, class_names)
    got = f"{array.dtype} {list(array.shape)}"
    if array.ndim != 1 or array.dtype.kind not in "biufU":
        raise UserError(
            f"{name} must be integers or strings, [n] or [n, 1], or one-hot, [n, C]; "
            f"got {got}."
        )
    if array.dtype.kind == "U":
        return _read_strings(array, name, class_names)
    if array.dtype.kind == "f":
        array = _whole_numbers(array, name).astype(np.float64)
    if array.size and not 0 <= array.min() <= array.max() < 2**31:
        got = f"{array.min()} to {array.max()}"
        raise UserError(f"{name} must count from 0, got {got}.")
    return array.astype(np.int32), None if class_names is None else tuple(class_names)


def _plain(array: np.ndarray, name: str) -> np.ndarray:
    """Returns bytes and Python's own objects as NumPy's strings or numbers."""
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{name} must be UTF-8 where they are bytes.") from error
    # pandas keeps strings as objects.
    if array.dtype.kind == "O":
        values = array.ravel().tolist()
        for kind in (str, int, float):
            if all(isinstance(value, kind) for value in values):
                try:
                    return np.array(values).reshape(array.shape)
                except (ValueError, OverflowError) as error:
                    raise UserError(f"{name} cannot be read: {error}.") from error
    return array


def _read_one_hot(
    array: np.ndarray, name: str, class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    num_classes = array.shape[1]
    is_one = array == 1
    if not (np.all(is_one | (array == 0)) and np.all(is_one.sum(axis=1) == 1)):
        raise UserError(
            f"{name} of shape {list(array.shape)} must be one-hot, a single 1 in each "
            "row and 0 elsewhere; or integers, [n]."
        )
    if class_names is not None and len(class_names) != num_classes:
        raise UserError(
            f"{name} must have one column per class, {len(class_names)}, got "
            f"{num_classes}."
        )
    labels = is_one.argmax(axis=1).astype(np.int32)
    return labels, tuple(class_names or number_names(num_classes))


def _read_strings(
    array: np.ndarray, name: str, class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if not is_text(array):
        raise UserError(f"{name} must be valid Unicode where they are strings.")
    held, labels = np.unique(array, return_inverse=True)
    held = held.tolist()
    if class_names is None:
        return labels.astype(np.int32), tuple(held)
    places = {one: place for place, one in enumerate(class_names)}
    unknown = [one for one in held if one not in places]
    if unknown:
        known = ", ".join(map(short_name, list(class_names)[:10]))
        raise UserError(
            f"{name} has '{short_name(unknown[0])}', which is none of the classes "
            f"{known}{', ...' if len(class_names) > 10 else ''}."
        )
    order = np.array([places[one] for one in held], np.int32)
    return order[labels] if held else labels.astype(np.int32), tuple(class_names)


def _whole_numbers(array: np.ndarray, name: str) -> np.ndarray:
    is_whole = np.isfinite(array) & (array == np.rint(array))
    if not is_whole.all():
        got = array[~is_whole][0]
        raise UserError(f"{name} must be whole numbers where they are float, got {got}")
    return array
