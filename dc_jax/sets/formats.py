"""Condensed sets in files of several formats.

`npz` and `safetensors` hold a set exactly, normalised as it was condensed. `parquet`,
`huggingface`, `png` and `tfds` hold pictures of what networks are trained on. The
authors' `.pt` can be read, not written.

Existing files are never replaced, and nobody ever sees a part of a file or a folder.
Reading a file never runs code that is in it.
"""

import json
import os
from pathlib import Path

import numpy as np

from dc_jax.base import SyntheticSet
from dc_jax.errors import UserError, check_fits, load_package, one_line
from dc_jax.files.content import write_atomically
from dc_jax.files.drafts import draft
from dc_jax.files.paths import check_folder, user_path
from dc_jax.sets import authors_pt, pictures, set_file
from dc_jax.sets.make import decode_set

# What reading a damaged safetensors file raises besides the library's own error: the
# last ones for types that NumPy does not have, and for text that is no JSON.
_DAMAGE = (OSError, AttributeError, LookupError, TypeError, ValueError, RecursionError)


def load_synthetic_set(
    path: str | os.PathLike, *, dataset: str | None = None, experiment: int = 0
) -> SyntheticSet:
    """Reads a set from our own `.npz` or `.safetensors`, or from the authors' `.pt`.

    Args:
      path: the file, or the folder of a run.
      dataset: only for `.pt`: which dataset of the paper was condensed. The file does
        not say how its images were normalised.
      experiment: number of the set in a run or a `.pt`, from 0.

    Returns:
      The set, as NumPy arrays.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the file is damaged or holds no such set; or the package that reads it
        is missing; or `dataset` is missing, unknown, or not needed.
    """
    path = user_path(path, "the path of a set")
    is_file = not os.path.isdir(path)
    path = Path(set_file.find_file(path, experiment))
    if path.suffix in authors_pt.SUFFIXES:
        return authors_pt.read(path, dataset, experiment)
    if dataset is not None:
        raise UserError(f"dataset is only for .pt files, got {dataset!r} for {path}.")
    if experiment and is_file:
        raise UserError(f"{path} holds one set, number 0; got experiment {experiment}.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return set_file.load_synthetic_set(path)


def export(
    synthetic_set: SyntheticSet, path: str | os.PathLike, file_format: str
) -> None:
    """Writes a set in one of `FORMATS`; `huggingface`, `png` and `tfds` are folders.

    The folder that `path` is in is made where needed.

    Raises:
      FileExistsError: there is something at `path`.
      UserError: the format is unknown, cannot hold the set, or needs a package that is
        missing; or the folder of `path` is a file.
    """
    if file_format not in FORMATS:
        raise UserError(
            f"format must be one of {', '.join(FORMATS)}, got {file_format!r}."
        )
    path = os.path.abspath(user_path(path, "the output"))
    check_folder(Path(path).parent, "the folder of the output")
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already: choose another, or delete it.")
    if file_format not in ("npz", "safetensors"):
        synthetic_set = decode_set(synthetic_set)
    with draft(path) as temporary:
        FORMATS[file_format](synthetic_set, temporary)


def _write_safetensors(synthetic_set: SyntheticSet, path: str) -> None:
    """Writes the arrays of the set, and its texts as metadata, which must be text."""
    library = load_package("safetensors.numpy", "formats")
    arrays = set_file.to_arrays(synthetic_set)
    texts = {"class_names": json.dumps(arrays.pop("class_names").tolist())}
    if "recipe" in arrays:
        texts["recipe"] = str(arrays.pop("recipe"))
    # The library writes the memory of an array, whatever its strides.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomically(path, library.save(arrays, texts))


def _read_safetensors(path: Path) -> SyntheticSet:
    library = load_package("safetensors", "formats")
    try:
        with library.safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            held = file.keys()
            arrays = {n: file.get_tensor(n) for n in set_file.NAMES if n in held}
        names = json.loads(texts.get("class_names", "null"))
    except (library.SafetensorError, *_DAMAGE) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 200)}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} cannot be read: it has no list class_names.")
    for name in ("images", "labels", "mean", "std"):
        if name not in arrays:
            raise UserError(f"{path} cannot be read: it has no {name}.")
    # In an array every name takes as much as the longest.
    num_bytes = 4 * len(names) * max(map(len, names), default=0)
    check_fits(num_bytes, f"the class_names of {path}")
    arrays["class_names"] = np.array(names, np.str_)
    if "recipe" in texts:
        arrays["recipe"] = np.array(texts["recipe"])
    return set_file.from_arrays(arrays, path)


FORMATS = {
    "npz": lambda synthetic_set, path: set_file.save_synthetic_set(path, synthetic_set),
    "safetensors": _write_safetensors,
    "parquet": pictures.write_parquet,
    "huggingface": pictures.write_huggingface,
    "png": pictures.write_folder,
    "tfds": pictures.write_tfds,
}
