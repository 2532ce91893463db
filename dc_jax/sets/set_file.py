"""The `.npz` file of a condensed set.

It holds plain arrays: loading one never runs code. It may come from anybody, so
everything in it is checked. The same set always gives the same bytes.
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping

import numpy as np

from dc_jax.base import SyntheticSet, make_labels
from dc_jax.config import FACTORS
from dc_jax.data.whitening import Whitening
from dc_jax.errors import UserError
from dc_jax.files.content import is_text, read_npz, write_npz
from dc_jax.files.paths import user_path

SET_NAME = "synthetic_set.npz"

# The arrays of the file: dtype and axes of each.
_ARRAYS = {
    "images": ("float32", "CIHWD"),
    "pixels": ("uint8", "CIHWD"),
    "labels": ("int32", "CI"),
    "class_names": ("text", "C"),
    "mean": ("float32", "D"),
    "std": ("float32", "D"),
}
_OPTIONAL = {
    "indices": ("int32", "CI"),
    "learning_rates": ("float32", "RI"),
    "soft_labels": ("float32", "CIC"),
    "whitening_center": ("float32", "HWD"),
    "whitening_matrix": ("float32", "VV"),
    "factor": ("int32", ""),
    "recipe": ("text", ""),
}
NAMES = (*_ARRAYS, *_OPTIONAL)
# How far the sum of an image's soft labels may be from 1.
_ROUNDING = 1e-3
_GIVE = "give a .npz, .safetensors or .pt, or the folder of a run."
_INEXACT = (
    "Exports of 8 bits (pictures, Parquet, datasets of the Hub and of TFDS) are not "
    "read back."
)


def save_synthetic_set(path: str | os.PathLike, synthetic_set: SyntheticSet) -> None:
    """Writes a set as `.npz`, for `load_synthetic_set` or any NumPy.

    Its folder is made where needed. The keys are the fields of `SyntheticSet` that are
    not None, and `pixels`, `[C, I, H, W, D]` uint8, the same images as a picture. The
    factor is left out where it is 1; the fields of a whitening are arrays of their own.

    Raises:
      UserError: the set could not be loaded again, for instance because an image
        holds a NaN.
    """
    arrays = to_arrays(synthetic_set)
    _check_arrays(arrays, f"cannot save {os.fspath(path)}")
    arrays["pixels"] = set_pixels(synthetic_set)
    write_npz(path, {name: arrays[name] for name in NAMES if name in arrays})


def load_synthetic_set(path: str | os.PathLike) -> SyntheticSet:
    """Reads a set that `save_synthetic_set` wrote, as NumPy arrays; see `find_file`.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the file is damaged, or is not such a set.
    """
    path = find_file(path)
    return from_arrays(read_npz(path, _ARRAYS, _OPTIONAL), path)


def load_synthetic_sets(path: str | os.PathLike) -> list[SyntheticSet]:
    """Reads a set, or all sets of a run in the order of its experiments; see above."""
    path = user_path(path, "the path of a set")
    sets = [load_synthetic_set(path)]
    while os.path.isfile(next_file := os.path.join(path, set_name(len(sets)))):
        sets.append(load_synthetic_set(next_file))
    return sets


def find_file(path: str | os.PathLike, experiment: int = 0) -> str:
    """Returns the path of a file, or of the set of an experiment in a run's folder.

    Raises:
      FileNotFoundError: there is no such file, or the run of the folder has not ended.
      UserError: it is a picture, or a Parquet file.
    """
    path = str(user_path(path, "the path of a set"))
    folder = path
    if os.path.isdir(folder):
        path = os.path.join(folder, set_name(experiment))
    if not os.path.isfile(path):
        has_no_set = not os.path.isfile(os.path.join(folder, SET_NAME))
        if has_no_set and os.path.isdir(os.path.join(folder, "checkpoints")):
            raise FileNotFoundError(
                f"no synthetic set at {path}: the run there has not ended. Its command "
                "continues it. With --config.minutes=0 it ends with what it has."
            )
        is_folder = has_no_set and os.path.isdir(folder)
        hint = f" {_INEXACT}" if is_folder else ""
        if is_folder and any(name.endswith(".npz") for name in os.listdir(folder)):
            hint = " Name one of the .npz there."
        raise FileNotFoundError(f"no synthetic set at {path}: {_GIVE}{hint}")
    if _begin_of(path).startswith((b"PAR1", b"\x89PNG")):
        raise UserError(f"{path} cannot be read: {_GIVE} {_INEXACT}")
    return path


def _begin_of(path: str) -> bytes:
    """Returns a few bytes of a file, none where it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4)
    return b""


def set_name(experiment: int) -> str:
    """Returns the file name of the set of an experiment, in the folder of a run."""
    return f"synthetic_set_{experiment}.npz" if experiment else SET_NAME


def to_arrays(synthetic_set: SyntheticSet) -> dict[str, np.ndarray]:
    """Returns the fields of a set as NumPy arrays, without None and a factor of 1."""
    names = np.array(synthetic_set.class_names, dtype=np.str_)
    fields = vars(synthetic_set) | {"class_names": names}
    if (whitening := fields.pop("whitening")) is not None:
        fields |= {
            f"whitening_{name}": value for name, value in vars(whitening).items()
        }
    factor = np.int32(synthetic_set.factor)
    fields["factor"] = factor if factor > 1 else None
    return {k: np.asarray(value) for k, value in fields.items() if value is not None}


def from_arrays(arrays: Mapping[str, np.ndarray], path: str) -> SyntheticSet:
    """Returns the set that `to_arrays` made these arrays from, read from `path`.

    Raises:
      UserError: they do not make a set.
    """
    _check_arrays(arrays, f"{path} is not a saved synthetic set")
    fields = {name: value for name, value in arrays.items() if name != "pixels"}
    fields["class_names"] = tuple(arrays["class_names"].tolist())
    if "factor" in arrays:
        fields["factor"] = int(arrays["factor"])
    if "recipe" in arrays:
        fields["recipe"] = str(arrays["recipe"])
    if "whitening_matrix" in arrays:
        center, matrix = map(fields.pop, ("whitening_center", "whitening_matrix"))
        fields["whitening"] = Whitening(center, matrix)
    return SyntheticSet(**fields)


def to_pixels(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Returns normalised images as a picture: de-normalised, clipped and rounded.

    `[..., D]` float -> uint8. Mean and standard deviation, `[D]`, are of pixels in
    [0, 1].
    """
    unit = np.asarray(images) * np.asarray(std) + np.asarray(mean)
    return np.rint(np.clip(unit, 0.0, 1.0) * 255.0).astype(np.uint8)


def normalised_images(synthetic_set: SyntheticSet) -> np.ndarray:
    """Returns the images of a set, `[C, I, H, W, D]`, normalised and not whitened."""
    images, whitening = np.asarray(synthetic_set.images), synthetic_set.whitening
    return images if whitening is None else whitening.unwhiten(images)


def set_pixels(synthetic_set: SyntheticSet, blank: int = 0) -> np.ndarray:
    """Returns the images of a set as `to_pixels` does; `blank` are its blank slots."""
    images = normalised_images(synthetic_set)
    pixels = to_pixels(images, synthetic_set.mean, synthetic_set.std)
    pixels[np.asarray(synthetic_set.labels) < 0] = blank
    return pixels


def _check_arrays(arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Raises a `UserError` unless the arrays make a `SyntheticSet`."""
    sizes = {"V": math.prod(arrays["images"].shape[2:])}
    for name, array in arrays.items():
        kind, axes = (_ARRAYS | _OPTIONAL)[name]
        if not (is_text(array) if kind == "text" else array.dtype == kind):
            raise UserError(f"{prefix}: {name} is {array.dtype}, expected {kind}.")
        # The first array with an axis defines its size.
        for axis, size in zip(axes, array.shape, strict=False):
            sizes.setdefault(axis, size)
        expected = tuple(sizes.get(axis) for axis in axes)
        if array.shape != expected or 0 in array.shape:
            raise UserError(
                f"{prefix}: {name} has shape {array.shape}, expected "
                f"[{', '.join(axes)}] with the sizes of images and none of them 0."
            )
        if kind == "float32" and not np.isfinite(array).all():
            bad = int(np.sum(~np.isfinite(array)))
            raise UserError(f"{prefix}: {bad} values of {name} are NaN or infinite.")
    _check_labels(arrays, prefix)
    _check_whitening(arrays, prefix)
    std, rates = arrays["std"], arrays.get("learning_rates", np.zeros(1))
    if std.min() <= 0:
        raise UserError(f"{prefix}: std is {std.tolist()}, expected above 0.")
    if rates.min() < 0:
        raise UserError(
            f"{prefix}: learning_rates go from {rates.min()}, expected none below 0."
        )
    if (factor := int(arrays.get("factor", 1))) not in FACTORS:
        raise UserError(f"{prefix}: factor is {factor}, expected one of {FACTORS}.")
    try:
        is_object = isinstance(json.loads(str(arrays.get("recipe", "{}"))), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise UserError(f"{prefix}: recipe is not the text of a JSON object.")


def _check_labels(arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Raises a `UserError` unless labels and blank slots are those of a set."""
    labels = arrays["labels"]
    is_image = labels >= 0
    class_ipc = is_image.sum(axis=1)
    if not class_ipc.all() or not np.array_equal(labels, make_labels(class_ipc)):
        raise UserError(
            f"{prefix}: labels go from {labels.min()} to {labels.max()}, expected in "
            f"the row of each class its index, 0 to {len(labels) - 1}, once or more, "
            "and then -1 in slots without an image."
        )
    if arrays["images"][~is_image].any():
        raise UserError(f"{prefix}: images are not 0 where the labels are -1.")
    indices = arrays.get("indices", labels)
    if indices.min() < -1 or not np.array_equal(indices >= 0, is_image):
        raise UserError(
            f"{prefix}: indices go from {indices.min()}, expected from 0, and -1 only "
            "and always where the labels are -1."
        )
    _check_soft_labels(arrays, is_image, prefix)
    if "learning_rates" in arrays and not is_image.all():
        raise UserError(
            f"{prefix}: learning_rates need as many images of each class, there are "
            f"{class_ipc.min()} to {class_ipc.max()}."
        )


def _check_soft_labels(
    arrays: Mapping[str, np.ndarray], is_image: np.ndarray, prefix: str
) -> None:
    """Raises a `UserError` unless soft labels, if there are any, are probabilities."""
    if "soft_labels" not in arrays:
        return
    soft_labels = arrays["soft_labels"]
    sums = soft_labels.sum(axis=2, dtype=np.float64)
    if soft_labels.min() < 0 or np.abs(sums - is_image).max() > _ROUNDING:
        raise UserError(
            f"{prefix}: soft_labels go from {soft_labels.min()}, with sums from "
            f"{sums.min():.4g} to {sums.max():.4g}; expected none below 0, with a sum "
            "of 1, and 0 where the labels are -1."
        )


def _check_whitening(arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Raises a `UserError` unless a whitening, if there is one, has an inverse."""
    names = [name for name in arrays if name.startswith("whitening_")]
    if not names:
        return
    if len(names) == 1:
        raise UserError(f"{prefix}: of the whitening it has {names[0]} alone.")
    if int(arrays.get("factor", 1)) > 1:
        raise UserError(f"{prefix}: factor must be 1 where images are whitened.")
    matrix = arrays["whitening_matrix"].astype(np.float64)
    is_zca = np.abs(matrix - matrix.T).max() <= _ROUNDING * np.abs(matrix).max()
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        is_zca = False
    if not is_zca:
        raise UserError(
            f"{prefix}: whitening_matrix is not symmetric with eigenvalues above 0."
        )
