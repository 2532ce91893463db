"""What a run keeps for its report besides its results, and how it is read again.

In the folder of a run: `snapshots/N.png`, the first experiment's images after N
iterations; `confusion.csv`, which class the evaluation networks take for which;
`neighbours.npz`, the training images nearest to the first experiment's. None of it is
needed for anything else, and all of it may be missing.
"""

import dataclasses
import io
import math
import zlib
from pathlib import Path

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.data.dataset import Dataset
from dc_jax.errors import UserError
from dc_jax.files import read_npz, write_atomically
from dc_jax.sets.image_grid import tile, to_png
from dc_jax.sets.set_file import to_pixels

# Bytes of pixels in a snapshot, at most, unless a single image has more.
SNAPSHOT = 300_000
# Images in a row of a snapshot with one of each class.
ROW = 10
# Of the images that the report shows of a set, and of their neighbours.
_SHOWN = 1_500_000
# Bytes of training images that are compared at once.
_CHUNK = 32_000_000

_SNAPSHOTS = "snapshots"
# The arrays of a file of neighbours, and their kinds of dtype.
_KINDS = {"pixels": "u1", "labels": "i4", "indices": "i8", "distances": "f8"}


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The training images nearest to synthetic ones, `shown` of a set.

    Attributes:
      pixels: `[c, i, H, W, D]` uint8.
      labels: `[c, i]`, their classes.
      indices: `[c, i]`, which images of the training split they are.
      distances: `[c, i]`, the root of the mean squared difference of the pixels, as a
        fraction of their range.
    """

    pixels: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    distances: np.ndarray


def is_snapshot(iteration: int) -> bool:
    """Whether the images after so many iterations are kept: 0, 1, 2, 5, 10, 20, ..."""
    return str(iteration).rstrip("0") in ("", "1", "2", "5")


def snapshot(synthetic: SyntheticSet) -> bytes:
    """Returns the images of a set, or some of them, as a PNG: one row per class.

    A set with one image per class has `ROW` images in a row. Blank slots are black.
    """
    images = shown(np.asarray(synthetic.images), SNAPSHOT)
    pixels = to_pixels(images, synthetic.mean, synthetic.std)
    pixels[synthetic.labels[: len(pixels), : pixels.shape[1]] < 0] = 0
    if pixels.shape[1] == 1:
        pixels = pixels.swapaxes(0, 1)
    return to_png(tile(pixels, ROW if len(pixels) == 1 else None))


def save_snapshot(folder: Path, iteration: int, png: bytes) -> None:
    """Writes the picture of the images after so many iterations."""
    write_atomically(folder / _SNAPSHOTS / f"{iteration}.png", png)


def read_snapshots(folder: Path) -> dict[int, bytes]:
    """Returns the PNGs by iteration, the first first, but damaged ones."""
    pictures = {}
    for iteration, path in sorted(_snapshot_paths(folder).items()):
        png = path.read_bytes()
        if is_picture(png):
            pictures[iteration] = png
        else:
            logging.warning("%s is damaged.", path)
    return pictures


def drop_snapshots(folder: Path, after: int) -> None:
    """Deletes those of later iterations, which a run will make again."""
    for iteration, path in _snapshot_paths(folder).items():
        if iteration > after:
            path.unlink()


def _snapshot_paths(folder: Path) -> dict[int, Path]:
    paths = (folder / _SNAPSHOTS).glob("*.png")
    return {int(path.stem): path for path in paths if path.stem.isdecimal()}


def save_confusion(folder: Path, counts: np.ndarray) -> None:
    """Writes how many images of each class, a row, are taken for each. `[C, C]`."""
    text = io.StringIO()
    np.savetxt(text, counts, fmt="%d", delimiter=",")
    write_atomically(folder / "confusion.csv", text.getvalue().encode())


def read_confusion(folder: Path) -> np.ndarray | None:
    """Returns what `save_confusion` wrote.

    Raises:
      UserError: it is damaged.
    """
    path = folder / "confusion.csv"
    if not path.exists():
        return None
    try:
        rows = path.read_text("utf-8").splitlines()
        counts = np.array([row.split(",") for row in rows], np.int64)
    except (OverflowError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.min() < 0:
        raise UserError(f"{path} is damaged: it holds no square of counts.")
    return counts


def save_neighbours(folder: Path, synthetic: SyntheticSet, dataset: Dataset) -> None:
    """Finds and writes the training images nearest to those that are `shown`.

    Of blank slots, too, where they mean nothing.
    """
    images = shown(np.asarray(synthetic.images))
    unit = np.clip(images * synthetic.std + synthetic.mean, 0, 1)
    found = find_neighbours(unit, dataset)
    buffer = io.BytesIO()
    np.savez(buffer, **dataclasses.asdict(found))
    write_atomically(folder / "neighbours.npz", buffer.getvalue())


def read_neighbours(folder: Path) -> Neighbours | None:
    """Returns what `save_neighbours` wrote.

    Raises:
      UserError: it is damaged.
    """
    path = folder / "neighbours.npz"
    if not path.exists():
        return None
    arrays = read_npz(path, _KINDS)
    kinds = {name: array.dtype.str[1:] for name, array in arrays.items()}
    shapes = [array.shape for array in arrays.values()]
    is_whole = len(shapes[0]) == 5 and {shapes[0][:2]} == set(shapes[1:])
    if kinds != _KINDS or not is_whole or 0 in shapes[0] or arrays["labels"].min() < 0:
        raise UserError(f"{path} holds no neighbours of images.")
    return Neighbours(**arrays)


def find_neighbours(unit: np.ndarray, dataset: Dataset) -> Neighbours:
    """Returns the training image nearest to each image, of whatever class.

    By the Euclidean distance of the pixels.

    Args:
      unit: pixels in [0, 1]. Shape `[c, i, H, W, D]`.
      dataset: whose training split is searched, some of it at a time.
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    flat = unit.reshape(unit.shape[0] * unit.shape[1], -1).astype(np.float32)
    real, labels = dataset.train_images, dataset.train_labels
    scale = 255 if real.dtype == np.uint8 else 1
    best, indices = np.full(len(flat), np.inf), np.zeros(len(flat), np.int64)
    size = max(_CHUNK // (4 * flat.shape[1]), 1)
    for start in range(0, len(real), size):
        chunk = np.asarray(real[start : start + size], np.float32) / scale
        places, distances = pairwise_distances_argmin_min(
            flat, chunk.reshape(len(chunk), -1)
        )
        is_nearer = distances < best
        best = np.where(is_nearer, distances, best)
        indices = np.where(is_nearer, start + places, indices)
    pixels = np.rint(real[indices] * (255 / scale)).astype(np.uint8)
    return Neighbours(
        pixels=pixels.reshape(unit.shape),
        labels=labels[indices].reshape(unit.shape[:2]),
        indices=indices.reshape(unit.shape[:2]),
        distances=(best / math.sqrt(flat.shape[1])).reshape(unit.shape[:2]),
    )


def shown(images: np.ndarray, num_bytes: int = _SHOWN) -> np.ndarray:
    """Returns the first images of each class, or of the first classes, that are shown.

    Args:
      images: `[C, I, ...]`.
      num_bytes: how many they may take as pixels.
    """
    num = max(num_bytes // math.prod(images.shape[2:]), 1)
    num_classes = min(len(images), num)
    return images[:num_classes, : max(num // num_classes, 1)]


def is_picture(png: bytes) -> bool:
    """Whether the bytes are those of a whole picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png)) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, zlib.error):
        return False
    return True


def size_of(png: bytes) -> tuple[int, int]:
    """Returns width and height of a picture."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        return picture.size
