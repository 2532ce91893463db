"""Writes and reads the files that a run keeps for its report besides its results.

These are `snapshots/N.png`, the first experiment's images after N iterations;
`confusion.csv`, which classes the evaluation networks confuse; and `neighbours.npz`,
the training images nearest to the first experiment's. Nothing but the report and
TensorBoard uses them, and any of them may be missing.
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
from dc_jax.files import read_npz, write_atomically, write_npz
from dc_jax.sets.image_grid import tile, to_png
from dc_jax.sets.set_file import to_pixels

# The largest number of bytes of pixels in a snapshot, unless one image has more.
SNAPSHOT = 300_000
# Images in a row of a snapshot of a set with one image per class.
ROW = 10
# The same as `SNAPSHOT` for the images of a set in the report, and their neighbours.
_SHOWN = 1_500_000
# How many bytes of training images to compare at once.
_CHUNK = 32_000_000

_SNAPSHOTS = "snapshots"
# The arrays in `neighbours.npz`, and their dtypes.
_KINDS = {"pixels": "u1", "labels": "i4", "indices": "i8", "distances": "f8"}


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The training images nearest to those images of a set that `shown` returns.

    Attributes:
      pixels: of the training images, `[c, i, H, W, D]` uint8.
      labels: their classes, `[c, i]`.
      indices: their places in the training split, `[c, i]`.
      distances: the root of the mean squared difference of the pixels, which range
        from 0 to 1, `[c, i]`.
    """

    pixels: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    distances: np.ndarray


def is_snapshot(iteration: int) -> bool:
    """Whether a run keeps the images of an iteration: 0, 1, 2, 5, 10, 20, ..."""
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
    """Writes the snapshot of an iteration."""
    write_atomically(folder / _SNAPSHOTS / f"{iteration}.png", png)


def read_snapshots(folder: Path) -> dict[int, bytes]:
    """Returns the PNGs by iteration, in increasing order.

    Leaves out damaged ones and logs a warning.

    Raises:
      OSError: a file cannot be read.
    """
    pictures = {}
    for iteration, path in sorted(_snapshot_paths(folder).items()):
        png = path.read_bytes()
        if is_picture(png):
            pictures[iteration] = png
        else:
            logging.warning("Not in the report: %s is damaged.", path)
    return pictures


def drop_snapshots(folder: Path, after: int) -> None:
    """Deletes the snapshots of later iterations, which a run will make again."""
    for iteration, path in _snapshot_paths(folder).items():
        if iteration > after:
            path.unlink()


def _snapshot_paths(folder: Path) -> dict[int, Path]:
    paths = (folder / _SNAPSHOTS).glob("*.png")
    return {int(path.stem): path for path in paths if path.stem.isdecimal()}


def save_confusion(folder: Path, counts: np.ndarray) -> None:
    """Writes how many images of each class (row) are taken for each (column)."""
    text = io.StringIO()
    np.savetxt(text, counts, fmt="%d", delimiter=",")
    write_atomically(folder / "confusion.csv", text.getvalue().encode())


def read_confusion(folder: Path) -> np.ndarray | None:
    """Returns the counts `[C, C]`, None without a file.

    Raises:
      OSError: the file cannot be read.
      UserError: the file is damaged.
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
        raise UserError(f"{path} is damaged: it is no square of counts.")
    return counts


def save_neighbours(folder: Path, synthetic: SyntheticSet, dataset: Dataset) -> None:
    """Finds and writes the training images nearest to the first images of a set.

    The neighbours of blank slots are written too and mean nothing.
    """
    images = shown(np.asarray(synthetic.images))
    unit = np.clip(images * synthetic.std + synthetic.mean, 0, 1)
    found = find_neighbours(unit, dataset)
    write_npz(folder / "neighbours.npz", dataclasses.asdict(found))


def read_neighbours(folder: Path) -> Neighbours | None:
    """Returns the neighbours, None without a file.

    Raises:
      UserError: the file is damaged.
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
    """Returns the training image of any class nearest to each image.

    The distance is the Euclidean distance of the pixels.

    Args:
      unit: pixels in [0, 1], `[c, i, H, W, D]`.
      dataset: its training split is searched, in chunks of about 32 MB.
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
    """Returns as many images as a page has room for.

    These are the first images of each class, or of the first classes if there is no
    room for all classes.

    Args:
      images: `[C, I, ...]`.
      num_bytes: the room, in bytes of pixels.

    Returns:
      `[c, i, ...]`, at least one image.
    """
    num = max(num_bytes // math.prod(images.shape[2:]), 1)
    num_classes = min(len(images), num)
    return images[:num_classes, : max(num // num_classes, 1)]


def is_picture(png: bytes) -> bool:
    """Whether the bytes are an undamaged picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png)) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, zlib.error):
        return False
    return True


def size_of(png: bytes) -> tuple[int, int]:
    """Returns the width and the height of a picture in pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        return picture.size
