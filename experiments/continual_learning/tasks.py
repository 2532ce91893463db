"""Tasks for continual learning: several datasets, or the classes of one dataset."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dc_jax.data.dataset import Dataset, channel_statistics
from dc_jax.data.sources import load_dataset
from dc_jax.errors import UserError

# From LIBSVM's page of multi-class datasets.
_USPS_FILES = {"train": "usps.bz2", "test": "usps.t.bz2"}
# Number of images that are resized at once.
_CHUNK = 4096
# What all tasks share of a dataset, for one network to learn them.
_STATISTICS = ("mean", "std", "whitening")
_CHANGES = {
    "inverted": lambda images: 255 - images,
    "rotated": lambda images: np.rot90(images, axes=(1, 2)),
}


class Task(NamedTuple):
    """A task, which the network learns as a whole.

    Attributes:
      dataset: the images of the task, with labels from 0 to its number of classes C.
      classes: the network's label of each class of the task. Shape `[C]`.
    """

    dataset: Dataset
    classes: np.ndarray  # [C]


def dataset_tasks(datasets: list[Dataset]) -> list[Task]:
    """Returns a task for each dataset; all have the same classes and statistics.

    Raises:
      UserError: the datasets have different numbers of classes.
    """
    first = datasets[0]
    shared = {name: getattr(first, name) for name in _STATISTICS}
    for other in datasets[1:]:
        if other.num_classes != first.num_classes:
            raise UserError(
                f"config.tasks must have equally many classes each, got "
                f"{first.num_classes} of {first.name} and {other.num_classes} of "
                f"{other.name}."
            )
    classes = np.arange(first.num_classes)
    return [
        Task(
            dataclasses.replace(one, class_names=first.class_names, **shared),
            classes,
        )
        for one in datasets
    ]


def class_tasks(dataset: Dataset, steps: int, rng: np.random.Generator) -> list[Task]:
    """Returns tasks of some classes each, in a random order.

    Raises:
      UserError: there are fewer classes than steps.
    """
    if not 1 <= steps <= dataset.num_classes:
        raise UserError(
            f"config.class_steps must be from 1 to {dataset.num_classes}, the number "
            f"of classes of {dataset.name}, got {steps}."
        )
    order = rng.permutation(dataset.num_classes)
    return [Task(_only(dataset, part), part) for part in np.array_split(order, steps)]


def _only(dataset: Dataset, classes: np.ndarray) -> Dataset:
    """Returns the images of some classes, labelled by the places of these classes."""
    places = np.full(dataset.num_classes, -1, np.int32)
    places[classes] = np.arange(len(classes))
    names = [dataset.class_names[label] for label in classes]
    arrays = {}
    for split in ("train", "test"):
        labels = places[getattr(dataset, f"{split}_labels")]
        kept = labels >= 0
        arrays[f"{split}_images"] = getattr(dataset, f"{split}_images")[kept]
        arrays[f"{split}_labels"] = labels[kept]
    return dataclasses.replace(
        dataset,
        source=f"{dataset.source}, classes {', '.join(names)}",
        class_names=tuple(names),
        **arrays,
    )


def limit_test(dataset: Dataset, num: int) -> Dataset:
    """Returns a dataset with at most `num` test images, always the same ones."""
    if len(dataset.test_labels) <= num:
        return dataset
    kept = np.random.default_rng(0).permutation(len(dataset.test_labels))[:num]
    return dataclasses.replace(
        dataset,
        test_images=dataset.test_images[kept],
        test_labels=dataset.test_labels[kept],
    )


def check_name(name: str, image_shape: tuple[int, int, int] | None) -> None:
    """Checks the change in the name of a task's dataset; see `load`.

    Raises:
      UserError: the change is unknown, or impossible with images of this shape.
    """
    _, colon, change = name.partition(":")
    if colon and change not in _CHANGES:
        raise UserError(
            f"config.tasks: after a colon must come {' or '.join(_CHANGES)}, got "
            f"{name!r}."
        )
    if change == "rotated" and image_shape and image_shape[0] != image_shape[1]:
        raise UserError(
            f"config.image_shape must be square if config.tasks has {name}, got "
            f"{'x'.join(map(str, image_shape))}."
        )


def load(
    name: str,
    *,
    image_shape: tuple[int, int, int] | None = None,
    path: str | None = None,
    usps: str | None = None,
) -> Dataset:
    """Loads the dataset of a task.

    Args:
      name: of the dataset; a colon and `inverted` or `rotated` may follow.
      image_shape: (H, W, D) of the images returned; None leaves them as they are.
      path: see `load_dataset`.
      usps: folder of the files of USPS.

    Returns:
      The dataset. Images that were changed are uint8.

    Raises:
      UserError: there is no such dataset or change, or colours would be lost.
      FileNotFoundError: a file is missing.
    """
    check_name(name, image_shape)
    base, _, change = name.partition(":")
    dataset = load_usps(usps) if base == "usps" else load_dataset(base, path)
    shape = image_shape or dataset.image_shape
    if shape == dataset.image_shape and not change:
        return dataset
    arrays = {}
    for split in ("train", "test"):
        images = _reshape(getattr(dataset, f"{split}_images"), shape, dataset.name)
        images = _CHANGES[change](images) if change else images
        arrays[f"{split}_images"] = np.ascontiguousarray(images)
    mean, std = channel_statistics(arrays["train_images"])
    return dataclasses.replace(dataset, name=name, mean=mean, std=std, **arrays)


def load_usps(folder: str | None) -> Dataset:
    """Reads 7,291 training and 2,007 test images of 16x16 from LIBSVM's files.

    Raises:
      UserError: no folder is given, or a file is damaged.
      FileNotFoundError: a file is missing.
    """
    from sklearn.datasets import load_svmlight_file

    where = "config.usps must be a folder with usps.bz2 and usps.t.bz2 of LIBSVM"
    if folder is None:
        raise UserError(f"{where}, got None.")
    arrays = {}
    for split, name in _USPS_FILES.items():
        path = Path(folder).expanduser() / name
        if not path.is_file():
            raise FileNotFoundError(f"{where}: there is no {path}.")
        try:
            pixels, labels = load_svmlight_file(str(path), n_features=256)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        # Pixels are from -1 to 1, labels start at 1.
        pixels = np.rint((pixels.toarray() + 1) * 127.5).clip(0, 255)
        arrays[f"{split}_images"] = pixels.astype(np.uint8).reshape(-1, 16, 16, 1)
        arrays[f"{split}_labels"] = labels.astype(np.int32) - 1
    mean, std = channel_statistics(arrays["train_images"])
    return Dataset(
        name="usps",
        source=f"LIBSVM's files in {folder}",
        class_names=tuple("0123456789"),
        mean=mean,
        std=std,
        **arrays,
    )


def _reshape(images: np.ndarray, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """Resizes images bilinearly, and repeats the channel of grey images if needed.

    Args:
      images: `[n, h, w, d]` uint8, or float32 in [0, 1].
      shape: (H, W, D).
      name: of the dataset.

    Returns:
      `[n, H, W, D]` uint8.
    """
    height, width, channels = shape
    if images.shape[3] not in (1, channels):
        raise UserError(
            f"config.image_shape must have the {images.shape[3]} channels of {name}, "
            f"got {channels}."
        )
    scale = 1 if images.dtype == np.uint8 else 255
    parts = []
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK].astype(np.float32) * scale
        size = (len(part), height, width, part.shape[3])
        part = np.asarray(jax.image.resize(part, size, "bilinear"))
        parts.append(np.rint(part).clip(0, 255).astype(np.uint8))
    return np.repeat(np.concatenate(parts), channels // images.shape[3], axis=3)
