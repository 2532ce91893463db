"""Reads datasets of TensorFlow Datasets (TFDS).

TFDS needs TensorFlow once, to write the raw files in its own format. Files in the
format `array_record` can then be read in any order without TensorFlow. Both packages
are imported only where they are needed.
"""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from dc_jax.data.decode import Encoded, decode
from dc_jax.data.embedded import EMBEDDED
from dc_jax.data.internet import is_reachable
from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files.drafts import draft

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.download import DownloadConfig

# How many examples are decoded at a time.
_CHUNK = 4096
_ADVICE = (
    "give --config.dataset.path=DIR with its IDX or other original files, or a TFDS "
    "folder in which it is prepared as array_record"
)


def open_builder(name: str, data_dir: str | None) -> "DatasetBuilder":
    """Finds a dataset by its TFDS name, without reading or downloading it.

    The name is `name`, `name/config` or `name:version`; `data_dir` the folder of
    prepared datasets, None for the default of TFDS.

    Raises:
      UserError: TFDS is missing, does not know the name, or the dataset is not one of
        labelled uint8 images of one size.
    """
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except ImportError as error:
        message = f"dataset '{name}' needs a package that is missing: {_short(error)}."
        raise UserError(message) from error
    except tfds.core.registered.DatasetNotFoundError as error:
        ours = ("folder", "npz", *EMBEDDED)
        known = [*ours, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name.lower(), known)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UserError(
            f"dataset name '{name}' is unknown{hint}: must be {', '.join(EMBEDDED)}, a "
            "TFDS name, hf:OWNER/NAME of Hugging Face, or folder, npz or anything with "
            "a path to files."
        ) from error
    # TFDS raises another type for each of a malformed name, an unknown version, an
    # unknown option, a folder in another format and a damaged folder.
    except Exception as error:
        raise UserError(
            f"TFDS cannot open '{name}' in {data_dir or 'its default folder'}: "
            f"{_short(error)}; {_ADVICE}."
        ) from error
    _check_features(name, builder)
    return builder


def prepare(builder: "DatasetBuilder") -> None:
    """Downloads the raw files of a dataset and writes them in the format read here.

    Raises:
      ConnectionError: a download failed.
      UserError: a package is missing, or TFDS could not prepare the dataset.
    """
    name, folder = _label(builder), builder.data_path
    # Before TensorFlow is imported: it greets with a page of warnings otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import importlib_resources  # noqa: F401 (TFDS needs and does not declare it)
        import requests
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"TFDS {name} is not prepared in {folder}, and preparing it needs "
            f'TensorFlow, once: pip install -e ".[prepare]" ({_short(error)}); or '
            f"{_ADVICE}."
        ) from error
    if not _can_download(builder):
        raise ConnectionError(
            f"TFDS {name} is not in {folder}, and the network from which it would be "
            f"downloaded cannot be reached: {_ADVICE}."
        )
    logging.info("Preparing TFDS %s in %s: its raw files are downloaded.", name, folder)
    try:
        # It only copies files: it shall not take all memory of the GPUs.
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        logging.info("TensorFlow is in use already and keeps the GPUs it has.")
    try:
        builder.download_and_prepare(download_config=_download_config())
    except (requests.RequestException, tfds.download.DownloadError) as error:
        problem = f"failed: {_ADVICE} ({_short(error)})."
        raise ConnectionError(f"the download of TFDS {name} {problem}") from error
    # The code of a dataset can raise any type.
    except Exception as error:
        raise UserError(
            f"TFDS {name} could not be prepared in {folder}: {_ADVICE} "
            f"({type(error).__name__}: {_short(error)})."
        ) from error


def read_prepared(
    builder: "DatasetBuilder", *, stream: bool = False, image_size: int | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...], str]:
    """Reads both splits of a prepared dataset into memory, or maps the training images.

    The test split is `test`, or `validation`, or there is none. With `stream` the
    training images are mapped from a file, which is written next to those of TFDS where
    it is missing.
    Pictures of several sizes are resized as `decode` does, and all to `image_size`.

    Returns:
      The arrays `train_images`, `test_images`, `[n, H, W, D]` uint8, `train_labels`,
      `test_labels`, `[n]` int32; the names of the classes; and `_label`.

    Raises:
      UserError: a split is missing or cannot be read, or the file cannot be written.
    """
    available = list(builder.info.splits)
    if "train" not in available:
        label = _label(builder)
        raise UserError(f"TFDS {label} has the splits {available}, must have 'train'.")
    splits = {"train": "train"}
    tests = [split for split in ("test", "validation") if split in available]
    splits |= {"test": tests[0]} if tests else {}
    arrays, pictures = {}, {}
    are_resized = image_size or None in builder.info.features["image"].shape
    if are_resized and stream:
        raise UserError(
            f"config.dataset.stream must be False for TFDS {_label(builder)}, whose "
            "pictures are resized."
        )
    for split, tfds_split in splits.items():
        if are_resized:
            pictures[split] = _read_encoded(builder, tfds_split)
            continue
        if stream and split == "train":
            images, labels = _map_split(builder, tfds_split)
        else:
            chunks = zip(*_read_chunks(builder, tfds_split), strict=True)
            images, labels = map(np.concatenate, chunks)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
    if are_resized:
        arrays = decode(pictures, f"TFDS {_label(builder)}", image_size)
    return arrays, tuple(builder.info.features["label"].names), _label(builder)


def _map_split(builder: "DatasetBuilder", split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, mapped from a file that is written once, and labels.

    Reading a batch is about a hundred times as fast as from the records of TFDS.
    """
    folder = Path(builder.data_path)
    paths = [folder / f"dc_jax-{split}-{kind}.npy" for kind in ("images", "labels")]
    shape = builder.info.features["image"].shape
    shape = (builder.info.splits[split].num_examples, *shape)
    has_images = _is_whole(paths[0], shape, np.uint8)
    if not has_images or not _is_whole(paths[1], shape[:1], np.int32):
        logging.info("Writing the images of TFDS %s to %s.", _label(builder), paths[0])
        try:
            _write_split(builder, split, paths, shape)
        except OSError as error:
            problem = f"{folder}, which cannot be written to: {_short(error)}"
            message = f"config.dataset.stream keeps decoded images in {problem}."
            raise UserError(message) from error
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1])


def _write_split(
    builder: "DatasetBuilder", split: str, paths: list[Path], shape: tuple[int, ...]
) -> None:
    """Writes images and labels to two files, which appear when they are complete."""
    # The inner draft ends first: where the labels are, the images are complete.
    with draft(paths[1]) as label_path, draft(paths[0]) as image_path:
        images = np.lib.format.open_memmap(image_path, "w+", np.uint8, shape)
        labels = np.lib.format.open_memmap(label_path, "w+", np.int32, shape[:1])
        start = 0
        for chunk, chunk_labels in _read_chunks(builder, split):
            images[start : start + len(chunk)] = chunk
            labels[start : start + len(chunk)] = chunk_labels
            start += len(chunk)
        images.flush()
        labels.flush()


def _is_whole(path: Path, shape: tuple[int, ...], dtype: type) -> bool:
    """Whether a file has the array, neither missing nor damaged."""
    try:
        array = np.load(path, mmap_mode="r")
    # An empty file raises EOFError, a truncated one ValueError.
    except (FileNotFoundError, EOFError, ValueError):
        return False
    return array.shape == shape and array.dtype == dtype


def _read_chunks(
    builder: "DatasetBuilder", split: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images `[n, H, W, D]` uint8 and labels `[n]` int32, in order."""
    for examples in _read_examples(builder, split):
        images = np.stack([example["image"] for example in examples])
        yield images, np.array([e["label"] for e in examples], np.int32)


def _read_encoded(builder: "DatasetBuilder", split: str) -> list[Encoded]:
    """Returns the pictures of a split as they are in the files."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    name = f"split '{split}' of TFDS {_label(builder)}"
    pictures, size = [], 0
    for examples in _read_examples(builder, split, decoders):
        size += sum(len(example["image"]) for example in examples)
        check_fits(size, f"the pictures of {name}")
        for example in examples:
            place = f"example {len(pictures)} of {name}"
            label, content = int(example["label"]), bytes(example["image"])
            pictures.append(Encoded(place, label, content))
    return pictures


def _read_examples(
    builder: "DatasetBuilder", split: str, decoders: dict | None = None
) -> Iterator[list[dict]]:
    """Yields the examples of a split in order, some at a time."""
    try:
        source = builder.as_data_source(split=split, decoders=decoders)
        places = range(len(source))
        for start in places[::_CHUNK]:
            yield source.__getitems__(places[start : start + _CHUNK])
    # A missing package, a format without random access, a damaged file.
    except (ImportError, NotImplementedError, RuntimeError) as error:
        where = f"split '{split}' of TFDS {_label(builder)} in {builder.data_path}"
        raise UserError(f"{where} cannot be read: {_short(error)}.") from error


def _can_download(builder: "DatasetBuilder") -> bool:
    """Whether the files that are to be downloaded can be, or need not be."""
    # A user puts the files of some datasets where TFDS looks for them.
    addresses = list(builder.url_infos)
    is_by_hand = bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)
    return is_by_hand or not addresses or is_reachable(addresses)


def _download_config() -> "DownloadConfig":
    """Says how raw files are fetched; tests replace the network by a folder."""
    import tensorflow_datasets as tfds

    # Google's bucket has some prepared datasets, but in a format not read here.
    return tfds.download.DownloadConfig(try_download_gcs=False)


def _check_features(name: str, builder: "DatasetBuilder") -> None:
    """Raises UserError, before any download, for a dataset that cannot be used."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = list(features) if isinstance(features, tfds.features.FeaturesDict) else []
    if "image" not in keys or "label" not in keys:
        raise UserError(
            f"TFDS {name} has the features {keys}, must have 'image' and 'label'."
        )
    image, label = features["image"], features["label"]
    if (
        not isinstance(image, tfds.features.Image)
        or image.np_dtype != np.uint8
        or not isinstance(label, tfds.features.ClassLabel)
    ):
        raise UserError(
            f"TFDS {name} has image = {_short(image)}, label = {_short(label)}, "
            "must be an Image of uint8 and a ClassLabel."
        )


def _label(builder: "DatasetBuilder") -> str:
    """Returns the full name, as `mnist:3.0.1`."""
    name, _, version = builder.info.full_name.rpartition("/")
    return f"{name}:{version}"


def _short(thing: object) -> str:
    """Returns the text of something of TFDS, which can be pages long, as one line."""
    return one_line(thing, 400).rstrip(".")
