"""The files a run leaves behind: the saved set, its card, its picture.

A saved set is an `.npz` of plain arrays: loading one never runs code. It may come from
anybody, so everything in it is checked. The same set always gives the same bytes.

Every file is written beside its place and then moved there, so that a reader, or a run
killed half way, never leaves half a file.
"""

import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import dc_jax
from dc_jax.base import SyntheticSet, make_labels
from dc_jax.data import Dataset
from dc_jax.image_grid import draw_grid
from dc_jax.npz import is_text, read_npz

SET_NAME = "synthetic_set.npz"

# The arrays of the file: their kind of dtype, and their axes.
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
    "recipe": ("text", ""),
}
NAMES = (*_ARRAYS, *_OPTIONAL)


def save_synthetic_set(path: str | os.PathLike, synthetic_set: SyntheticSet) -> None:
    """Writes a set as `.npz`, for `load_synthetic_set` or any NumPy.

    Keys: `images` and `labels`, `mean` and `std`, `class_names` as in `SyntheticSet`,
    and `pixels`, `[C, I, H, W, D]` uint8, the same images as a picture. Where the
    images are real, `indices`; of dataset distillation, `learning_rates`; and `recipe`
    where there is one.

    Args:
      path: file to write; its folder is made where needed.
      synthetic_set: the set to save.

    Raises:
      ValueError: the set is not one that could be loaded again, for instance because
        an image holds a NaN.
    """
    arrays = to_arrays(synthetic_set)
    _check_arrays(arrays, f"cannot save {os.fspath(path)}")
    arrays["pixels"] = set_pixels(synthetic_set)
    buffer = io.BytesIO()
    names = [name for name in NAMES if name in arrays]
    np.savez(buffer, **{name: arrays[name] for name in names})
    write_atomically(path, buffer.getvalue())


def load_synthetic_set(path: str | os.PathLike) -> SyntheticSet:
    """Reads a set that `save_synthetic_set` wrote.

    Args:
      path: the `.npz`, or the folder of a run that holds `synthetic_set.npz`.

    Returns:
      The set, as NumPy arrays.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or is not such a set.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        path = os.path.join(path, SET_NAME)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no synthetic set at {path}: give the .npz of a run, or its folder."
        )
    arrays = read_npz(path, _ARRAYS, _OPTIONAL)
    return from_arrays(arrays, path)


def to_arrays(synthetic_set: SyntheticSet) -> dict[str, np.ndarray]:
    """Returns the fields of a set that are not None, as NumPy arrays."""
    arrays = {
        "images": np.asarray(synthetic_set.images),
        "labels": np.asarray(synthetic_set.labels),
        "class_names": np.array(synthetic_set.class_names, dtype=np.str_),
        "mean": np.asarray(synthetic_set.mean),
        "std": np.asarray(synthetic_set.std),
    }
    for name in _OPTIONAL:
        if getattr(synthetic_set, name) is not None:
            arrays[name] = np.asarray(getattr(synthetic_set, name))
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], path: str) -> SyntheticSet:
    """Returns the set that `to_arrays` made these of, and checks it.

    Args:
      arrays: by field, some of `NAMES`.
      path: of the file that they are of, for errors.

    Raises:
      ValueError: they are no set.
    """
    _check_arrays(arrays, f"{path} is not a saved synthetic set")
    fields = {name: arrays[name] for name in ("images", "labels", "mean", "std")}
    fields |= {name: arrays.get(name) for name in _OPTIONAL}
    if "recipe" in arrays:
        fields["recipe"] = str(arrays["recipe"])
    return SyntheticSet(class_names=tuple(arrays["class_names"].tolist()), **fields)


def load_synthetic_sets(path: str | os.PathLike) -> list[SyntheticSet]:
    """Reads a set, or all sets of a run in the order of its experiments.

    Args:
      path: the `.npz` of one, or the folder of a run.

    Raises:
      FileNotFoundError: there is no set.
      ValueError: a file is damaged, or is not such a set.
    """
    sets = [load_synthetic_set(path)]
    if os.path.isdir(path):
        for experiment in itertools.count(1):
            name = os.path.join(path, set_name(experiment))
            if not os.path.isfile(name):
                break
            sets.append(load_synthetic_set(name))
    return sets


def set_name(experiment: int) -> str:
    """Returns the file name of an experiment's set in the folder of a run."""
    return f"synthetic_set_{experiment}.npz" if experiment else SET_NAME


def to_pixels(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Returns normalised images as a picture: de-normalised, clipped and rounded.

    Args:
      images: `[..., D]` float, normalised.
      mean: `[D]`, of pixels in [0, 1].
      std: `[D]`, of pixels in [0, 1].

    Returns:
      Pixels of the same shape, uint8.
    """
    unit = np.asarray(images) * np.asarray(std) + np.asarray(mean)
    return np.rint(np.clip(unit, 0.0, 1.0) * 255.0).astype(np.uint8)


def set_pixels(synthetic_set: SyntheticSet, blank: int = 0) -> np.ndarray:
    """Returns the images of a set as `to_pixels` does; `blank` are its blank slots."""
    pixels = to_pixels(synthetic_set.images, synthetic_set.mean, synthetic_set.std)
    pixels[np.asarray(synthetic_set.labels) < 0] = blank
    return pixels


def save_image_grid(
    path: str | os.PathLike, synthetic_set: SyntheticSet, max_columns: int = 25
) -> None:
    """Writes a set as one PNG: a row a class, its name at the left.

    Args:
      path: file to write; its folder is made where needed.
      synthetic_set: the set to draw.
      max_columns: how many images to draw in a line, at most.
    """
    pixels = set_pixels(synthetic_set, blank=255)  # As white as the paper.
    picture = draw_grid(pixels, synthetic_set.class_names, max_columns)
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def write_json(path: str | os.PathLike, value: Mapping) -> None:
    """Writes a dict as indented JSON, in the order of the dict.

    Raises:
      ValueError: a value is NaN or infinite, or is nothing that JSON has.
    """
    plain = _to_plain(value, os.path.basename(os.fspath(path)))
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    # What is not Unicode, as in the name of a folder, becomes an escape of JSON.
    write_atomically(path, (text + "\n").encode("utf-8", "backslashreplace"))


def training_of(synthetic_set: SyntheticSet) -> dict[str, Any]:
    """Returns the fields of `training` in a set's recipe; none where it has none.

    Raises:
      ValueError: they are no fields.
    """
    if synthetic_set.recipe is None:
        return {}
    training = json.loads(synthetic_set.recipe).get("training", {})
    if not isinstance(training, dict):
        raise ValueError(f"the set's recipe has training {training!r}, must be fields.")
    return training


def make_recipe(
    *,
    method: str,
    dataset: str,
    ipc: int | Sequence[int],
    protocol: Mapping,
    in_words: str,
    accuracies: Iterable[float] = (),
) -> str:
    """Returns what a set says of its use, `SyntheticSet.recipe`.

    Args:
      method: that made the set.
      dataset: name of what it was made of.
      ipc: images a class, or of each.
      protocol: how networks were trained on it.
      in_words: the same as a sentence.
      accuracies: of these networks on the test split, fractions; none where they
        were not measured.
    """
    accuracies = list(accuracies)
    recipe = {
        "method": method,
        "dataset": dataset,
        "ipc": ipc,
        "training": dict(protocol),
        "training_in_words": in_words,
    }
    if accuracies:
        recipe |= {
            "accuracy_mean": float(np.mean(accuracies)),
            "accuracy_std": float(np.std(accuracies)),
            "num_evaluations": len(accuracies),
        }
    return json.dumps(_to_plain(recipe, "recipe"), ensure_ascii=False)


def make_card(
    *,
    method: str,
    config: Mapping,
    seed: int,
    dataset: Dataset,
    protocol: Mapping,
    accuracy: Mapping,
    created: str,
    files: Iterable[str | os.PathLike],
) -> dict:
    """Returns the card of a run: what it takes to judge its set, and to make it again.

    Args:
      method: name of the method.
      config: every field of the configuration, nested.
      seed: the one seed of the run.
      dataset: what was condensed.
      protocol: how `accuracy` was measured.
      accuracy: the accuracy of exactly the images in `files`.
      created: UTC time in ISO 8601; the caller reads the clock.
      files: what else the run wrote; the card has the size and checksum of each.

    Returns:
      A dict for `write_json`.
    """
    return {
        "method": method,
        "created": created,
        "seed": seed,
        "accuracy": dict(accuracy),
        "protocol": dict(protocol),
        "dataset": {
            "name": dataset.name,
            "source": dataset.source,
            "checksum": dataset.checksum(),
            "num_train": len(dataset.train_images),
            "num_test": len(dataset.test_images),
            "image_shape": list(dataset.image_shape),
            "num_classes": dataset.num_classes,
        },
        "config": dict(config),
        "command": _command(),
        "versions": _versions(),
        "files": {
            os.path.basename(os.fspath(file)): file_record(file) for file in files
        },
    }


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file so that nobody ever sees a part of it; makes its folder."""
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Not `tempfile`, whose files nobody else may read.
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = path  # A full disk does not name it.
        raise
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _check_arrays(arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Raises a `ValueError` unless the arrays make a `SyntheticSet`."""
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        kind, axes = (_ARRAYS | _OPTIONAL)[name]
        if not _has_kind(array, kind):
            raise ValueError(f"{prefix}: {name} is {array.dtype}, expected {kind}.")
        # The first array that has an axis says how long it is.
        for axis, size in zip(axes, array.shape, strict=False):
            sizes.setdefault(axis, size)
        expected = tuple(sizes.get(axis) for axis in axes)
        if array.ndim != len(axes) or array.shape != expected or 0 in array.shape:
            raise ValueError(
                f"{prefix}: {name} has shape {array.shape}, expected "
                f"[{', '.join(axes)}] with the sizes of images and none of them 0."
            )
        if kind == "float32" and not np.isfinite(array).all():
            bad = int(np.sum(~np.isfinite(array)))
            raise ValueError(f"{prefix}: {bad} values of {name} are NaN or infinite.")
    _check_labels(arrays, prefix)
    std = arrays["std"]
    if "learning_rates" in arrays and arrays["learning_rates"].min() < 0:
        raise ValueError(
            f"{prefix}: learning_rates go from {arrays['learning_rates'].min()}, "
            "expected none below 0."
        )
    if std.min() <= 0:
        raise ValueError(f"{prefix}: std is {std.tolist()}, expected above 0.")
    if "recipe" in arrays and not _is_json_object(str(arrays["recipe"])):
        raise ValueError(f"{prefix}: recipe is not the text of a JSON object.")


def _check_labels(arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Raises a `ValueError` unless labels and blank slots are those of a set."""
    labels = arrays["labels"]
    is_image = labels >= 0
    class_ipc = is_image.sum(axis=1)
    if not class_ipc.all() or not np.array_equal(labels, make_labels(class_ipc)):
        raise ValueError(
            f"{prefix}: labels go from {labels.min()} to {labels.max()}, expected in "
            f"the row of each class its index, 0 to {len(labels) - 1}, once or more, "
            "and then -1 in slots without an image."
        )
    if arrays["images"][~is_image].any():
        raise ValueError(f"{prefix}: images are not 0 where the labels are -1.")
    indices = arrays.get("indices", labels)
    if indices.min() < -1 or not np.array_equal(indices >= 0, is_image):
        raise ValueError(
            f"{prefix}: indices go from {indices.min()}, expected from 0, and -1 only "
            "and always where the labels are -1."
        )
    if "learning_rates" in arrays and not is_image.all():
        raise ValueError(
            f"{prefix}: learning_rates need as many images of each class, there are "
            f"{class_ipc.min()} to {class_ipc.max()}."
        )


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _has_kind(array: np.ndarray, kind: str) -> bool:
    return is_text(array) if kind == "text" else array.dtype == kind


def _to_plain(value: Any, where: str) -> Any:
    """Returns `value` as JSON types; `where` names it in errors, as in "a.json/b"."""
    if isinstance(value, Mapping):
        return {str(k): _to_plain(v, f"{where}/{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(v, f"{where}/{i}") for i, v in enumerate(value)]
    if isinstance(value, np.generic | jax.Array) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, expected a finite number.")
    if value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(
            f"{where} is a {type(value).__name__}, expected a number, text, list, dict."
        )
    return value


def _command() -> str:
    """Returns the command line of this process."""
    # Names of files need not be UTF-8, JSON must.
    command = shlex.join(sys.orig_argv)
    return command.encode("utf-8", "backslashreplace").decode()


def _versions() -> dict:
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    commit = _commit()
    return {
        "dc_jax": dc_jax.__version__,
        **({"commit": commit} if commit else {}),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
    }


def _commit() -> str | None:
    """Returns the commit of this package's source, with `-dirty` if files differ.

    None where git is missing, or does not know the source: it was installed.
    """
    git = ["git", "-C", os.path.dirname(dc_jax.__file__)]
    # A copy that was installed may lie in the repository of somebody else.
    is_known = [*git, "ls-files", "--error-unmatch", "__init__.py"]
    name = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    options = {"capture_output": True, "check": True, "text": True, "timeout": 10}
    try:
        subprocess.run(is_known, **options)
        return subprocess.run(name, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def file_record(path: str | os.PathLike) -> dict:
    """Returns what a card says of a file: its size in bytes and its checksum."""
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": os.path.getsize(path), "sha256": checksum}
