"""What a run keeps for its report besides its results, and how it is read again.

In the folder of a run: `snapshots/N.png`, the first experiment's images after N
iterations; `confusion.csv`, which class the evaluation networks take for which;
`neighbours.npz`, the training images nearest to the first experiment's. None of it is
needed for anything else, and all of it may be missing.
"""

import dataclasses
import io
import math
from pathlib import Path

import numpy as np

from dc_jax.artefact import to_pixels, write_atomically
from dc_jax.base import SyntheticSet
from dc_jax.data import Dataset
from dc_jax.npz import read_npz

# Bytes of pixels in a snapshot, at most, unless a single image has more.
SNAPSHOT = 300_000
# Images in a row of a snapshot with one of each class.
ROW = 10
# Of the images that the report shows of a set, and of their neighbours.
_SHOWN = 1_500_000
# Training images that are compared at once.
_CHUNK = 2048

_ARRAYS = ("pixels", "labels", "indices", "distances")


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


def save_snapshot(
    folder: Path,
    iteration: int,
    images: np.ndarray,
    labels: np.ndarray,
    dataset: Dataset,
) -> None:
    """Writes the images `[C, I, H, W, D]`, or some of them: a row a class.

    One image a class is `ROW` in a row. Slots with labels `[C, I]` of -1 are black.
    """
    pixels = to_pixels(shown(np.asarray(images), SNAPSHOT), dataset.mean, dataset.std)
    pixels[labels[: len(pixels), : pixels.shape[1]] < 0] = 0
    if pixels.shape[1] == 1:
        pixels = pixels.swapaxes(0, 1)
    picture = mosaic(pixels, ROW if len(pixels) == 1 else None)
    path = folder / "snapshots" / f"{iteration}.png"
    write_atomically(path, to_png(picture))


def read_snapshots(folder: Path) -> dict[int, bytes]:
    """Returns the PNGs by iteration, the first first."""
    paths = [p for p in (folder / "snapshots").glob("*.png") if p.stem.isdecimal()]
    return {
        int(p.stem): p.read_bytes() for p in sorted(paths, key=lambda p: int(p.stem))
    }


def save_confusion(folder: Path, counts: np.ndarray) -> None:
    """Writes how many images of each class, a row, are taken for each. `[C, C]`."""
    text = io.StringIO()
    np.savetxt(text, counts, fmt="%d", delimiter=",")
    write_atomically(folder / "confusion.csv", text.getvalue().encode())


def read_confusion(folder: Path) -> np.ndarray | None:
    """Returns what `save_confusion` wrote.

    Raises:
      ValueError: it is damaged.
    """
    path = folder / "confusion.csv"
    if not path.exists():
        return None
    counts = np.loadtxt(path, np.int64, delimiter=",", ndmin=2)
    if counts.shape[0] != counts.shape[1] or counts.min(initial=0) < 0:
        raise ValueError(f"{path} holds no square of counts, but {counts.shape}.")
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
      ValueError: it is damaged.
    """
    path = folder / "neighbours.npz"
    if not path.exists():
        return None
    found = Neighbours(**read_npz(path, _ARRAYS))
    shapes = {getattr(found, name).shape for name in _ARRAYS[1:]}
    if found.pixels.ndim != 5 or shapes != {found.pixels.shape[:2]}:
        raise ValueError(f"{path} holds no neighbours of images.")
    return found


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
    for start in range(0, len(real), _CHUNK):
        chunk = np.asarray(real[start : start + _CHUNK], np.float32) / scale
        places, distances = pairwise_distances_argmin_min(
            flat, chunk.reshape(len(chunk), -1)
        )
        is_nearer = distances < best
        best = np.where(is_nearer, distances, best)
        indices = np.where(is_nearer, start + places, indices)
    pixels = np.rint(real[indices] * (255 / scale)).astype(np.uint8)
    return Neighbours(
        pixels=pixels.reshape(unit.shape),
        labels=np.asarray(labels)[indices].astype(np.int32).reshape(unit.shape[:2]),
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


def mosaic(pixels: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Returns images beside each other, a row a class.

    Args:
      pixels: `[C, I, H, W, D]` uint8.
      columns: images in a row, at most; a class then has several rows.

    Returns:
      `[rows H, columns W, 1 or 3]`, black where there is no image.
    """
    num_classes, num, height, width, depth = pixels.shape
    columns = min(columns or num, num)
    rows = -(-num // columns)
    padding = [(0, 0)] * 5
    padding[1] = (0, rows * columns - num)
    cells = np.pad(pixels[..., : 3 if depth >= 3 else 1], padding)
    cells = cells.reshape(num_classes * rows, columns, height, width, -1)
    return cells.swapaxes(1, 2).reshape(
        num_classes * rows * height, columns * width, -1
    )


def to_png(picture: np.ndarray) -> bytes:
    """Returns a picture `[height, width, 1 or 3]` uint8 as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    if picture.shape[-1] == 1:
        picture = picture[..., 0]
    Image.fromarray(picture).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
