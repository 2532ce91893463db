"""Writes and reads the files that a run keeps for its report besides its results.

These are `snapshots/N.png`, the first experiment's images after N iterations;
`confusion.csv`, which classes the evaluation networks confuse; and `neighbours.npz`,
the training images nearest to the first experiment's. Nothing but the report and
TensorBoard uses them, and any of them may be missing.
"""

import io
import math
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.data.dataset import Dataset
from dc_jax.errors import UserError
from dc_jax.files.content import read_npz, write_atomically, write_npz
from dc_jax.sets.image_grid import tile, to_png
from dc_jax.sets.set_file import normalised_images, set_pixels

NEIGHBOURS = "neighbours.npz"
SNAPSHOT = 300_000  # Bytes of pixels in a snapshot, unless one image has more.
_SHOWN = 1_500_000  # The same for the images in the report, and their neighbours.
_LARGEST = 30_000_000  # Bytes or pixels of a snapshot that is read.
ROW = 10  # Images in a row of a snapshot of a set with one image per class.
_CHUNK = 32_000_000  # Bytes of training images that are compared at once.
# The arrays in `neighbours.npz`, and their dtypes.
_KINDS = {"pixels": "u1", "labels": "i4", "indices": "i8", "distances": "f8"}


class Neighbours(NamedTuple):
    """The training images nearest to those images of a set that `shown` returns."""

    pixels: np.ndarray  # [c, i, H, W, D] uint8
    labels: np.ndarray  # [c, i] int32
    indices: np.ndarray  # [c, i] int64, in the training split
    # [c, i], root of the mean squared difference of the pixels, which are in [0, 1].
    distances: np.ndarray


def is_snapshot(iteration: int) -> bool:
    """Whether a run keeps the images of an iteration: 0, 1, 2, 5, 10, 20, ..."""
    return str(iteration).rstrip("0") in ("", "1", "2", "5")


def snapshot(synthetic: SyntheticSet) -> bytes:
    """Returns the images of a set, or some of them, as a PNG: one row per class.

    A set with one image per class has `ROW` images in a row. Blank slots are black.
    """
    pixels = shown_pixels(synthetic, SNAPSHOT)
    if pixels.shape[1] == 1:
        pixels = pixels.swapaxes(0, 1)
    return to_png(tile(pixels, ROW if len(pixels) == 1 else None))


def save_snapshot(folder: Path, iteration: int, png: bytes) -> None:
    """Writes the snapshot of an iteration."""
    # Not its parents: a folder that somebody deleted is no place for results.
    (folder / "snapshots").mkdir(exist_ok=True)
    write_atomically(folder / "snapshots" / f"{iteration}.png", png)


def read_snapshots(folder: Path) -> dict[int, bytes]:
    """Returns the PNGs by iteration, in order; of damaged ones it logs a warning.

    Raises:
      OSError: a file cannot be read.
    """
    from PIL import Image

    pictures = {}
    for iteration, path in sorted(_snapshot_paths(folder).items()):
        try:
            if path.stat().st_size > _LARGEST:
                raise UserError("it is larger than any snapshot.")
            png = path.read_bytes()
            if math.prod(size_of(png)) > _LARGEST:
                raise UserError("it has more pixels than any snapshot.")
            with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
                picture.load()
            pictures[iteration] = png
        except (OSError, SyntaxError, ValueError, zlib.error):
            logging.warning("Not in the report: %s is damaged.", path)
    return pictures


def drop_snapshots(folder: Path, after: int) -> None:
    """Deletes the snapshots of later iterations, which a run will make again."""
    for iteration, path in _snapshot_paths(folder).items():
        if iteration > after:
            path.unlink()


def _snapshot_paths(folder: Path) -> dict[int, Path]:
    paths = (folder / "snapshots").glob("*.png")
    # Others than those that a run keeps are somebody else's.
    names = {path.stem: path for path in paths if re.fullmatch(r"0|[125]0*", path.stem)}
    return {int(name): path for name, path in names.items()}


def save_confusion(folder: Path, counts: np.ndarray) -> None:
    """Writes how many images of each class (row) are taken for each (column)."""
    text = io.StringIO()
    np.savetxt(text, counts, fmt="%d", delimiter=",")
    write_atomically(folder / "confusion.csv", text.getvalue().encode())


def read_confusion(path: Path) -> np.ndarray:
    """Returns the counts `[C, C]` in `confusion.csv`.

    Raises:
      OSError, OverflowError or ValueError: the file cannot be read, or is damaged.
    """
    rows = path.read_text("utf-8").splitlines()
    counts = np.array([row.split(",") for row in rows], np.int64)
    if counts.shape != (len(rows), len(rows)) or counts.min() < 0:
        raise UserError("it is no square of counts.")
    return counts


def save_neighbours(folder: Path, synthetic: SyntheticSet, dataset: Dataset) -> None:
    """Finds and writes the training images nearest to the first images of a set.

    The neighbours of blank slots are written too and mean nothing.
    """
    images = shown(normalised_images(synthetic))
    unit = np.clip(images * synthetic.std + synthetic.mean, 0, 1)
    write_npz(folder / NEIGHBOURS, find_neighbours(unit, dataset)._asdict())


def read_neighbours(path: Path) -> Neighbours:
    """Returns the neighbours in `neighbours.npz`.

    Raises:
      UserError: the file is damaged.
    """
    found = Neighbours(**read_npz(path, _KINDS))
    is_kind = [array.dtype.str[1:] for array in found] == [*_KINDS.values()]
    shape = found.pixels.shape
    is_whole = len(shape) == 5 and {shape[:2]} == {array.shape for array in found[1:]}
    if not is_kind or not is_whole or 0 in shape or found.labels.min() < 0:
        raise UserError("it holds no neighbours of images.")
    return found


def find_neighbours(unit: np.ndarray, dataset: Dataset) -> Neighbours:
    """Returns the training image of any class nearest to each image of a set.

    The images are pixels in [0, 1], `[c, i, H, W, D]`; the distance is Euclidean.
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    flat = unit.reshape(unit.shape[0] * unit.shape[1], -1).astype(np.float32)
    real = dataset.train_images
    scale = 255 if real.dtype == np.uint8 else 1
    best, indices = np.full(len(flat), np.inf), np.zeros(len(flat), np.int64)
    size = max(_CHUNK // (4 * flat.shape[1]), 1)
    for start in range(0, len(real), size):
        chunk = np.asarray(real[start : start + size], np.float32) / scale
        chunk = chunk.reshape(len(chunk), -1)
        places, distances = pairwise_distances_argmin_min(flat, chunk)
        is_nearer = distances < best
        best = np.where(is_nearer, distances, best)
        indices = np.where(is_nearer, start + places, indices)
    pixels = np.rint(real[indices] * (255 / scale)).astype(np.uint8)
    distances = best / math.sqrt(flat.shape[1])
    of_image = (dataset.train_labels[indices], indices, distances)
    return Neighbours(
        pixels.reshape(unit.shape), *(one.reshape(unit.shape[:2]) for one in of_image)
    )


def shown(images: np.ndarray, num_bytes: int = _SHOWN) -> np.ndarray:
    """Returns as many images as a page has room for, in bytes of pixels.

    These are the first images of each class, or of the first classes if there is no
    room for all classes: `[C, I, ...]` -> `[c, i, ...]`, at least one image.
    """
    num = max(num_bytes // math.prod(images.shape[2:]), 1)
    num_classes = min(len(images), num)
    return images[:num_classes, : max(num // num_classes, 1)]


def shown_pixels(synthetic: SyntheticSet, num_bytes: int = _SHOWN) -> np.ndarray:
    """Returns the images of a set that are shown, `[c, i, H, W, D]` uint8."""
    return shown(set_pixels(synthetic), num_bytes)


def size_of(png: bytes) -> tuple[int, int]:
    """Returns the width and the height of a PNG in pixels, by its header alone.

    Raises:
      UserError: it is no PNG.
    """
    if len(png) < 24 or not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise UserError("it is no PNG.")
    return struct.unpack(">II", png[16:24])
