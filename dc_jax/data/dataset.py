"""A labelled image dataset: its arrays, their checks and their statistics."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from dc_jax.data.whitening import Whitening
from dc_jax.errors import UserError, short_name
from dc_jax.files.content import is_unicode

# How many images are held as float64 at once while statistics are computed.
_CHUNK = 1024
# What to do about a class that has no image.
NO_GAPS = "number the classes that have images from 0 without gaps"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with labels, checked when it is made.

    Raises:
      UserError: a field is not as described, or a class has no training image.
    """

    name: str  # Canonical, e.g. "svhn_cropped".
    source: str  # Where it came from, in words, for the log and the card.
    # `[n, H, W, D]` uint8, or float32 in [0, 1]; may be mapped from a file that is
    # larger than memory.
    train_images: np.ndarray
    train_labels: np.ndarray  # `[n]` int32 in [0, C).
    test_images: np.ndarray  # As `train_images`, same H, W, D and dtype.
    test_labels: np.ndarray  # As `train_labels`.
    class_names: tuple[str, ...]  # The C names, in the order of the labels; of Unicode.
    mean: np.ndarray  # `[D]` float32, of pixels in [0, 1].
    std: np.ndarray  # `[D]` float32, of pixels in [0, 1], above zero.
    # Of the training images, if images are to be whitened.
    whitening: Whitening | None = None

    def __post_init__(self):
        problem = next(self._find_problems(), None)
        if problem:
            raise UserError(f"dataset '{self.name}' ({self.source}): {problem}.")

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, D)."""
        return self.train_images.shape[1:]

    def checksum(self) -> str:
        """Returns the SHA-256, in hex, of the images and labels of both splits."""
        return self._checksum

    @functools.cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256()
        for split in ("train", "test"):
            for kind in ("images", "labels"):
                array = getattr(self, f"{split}_{kind}")
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def _find_problems(self) -> Iterator[str]:
        for name in self.class_names:
            # The name of a folder can be in another encoding.
            if not is_unicode(name):
                yield f"class name {name!r} is not valid Unicode"
        train, test = self.train_images, self.test_images
        for split, images in (("train", train), ("test", test)):
            labels = getattr(self, f"{split}_labels")
            problem = find_problem(images, labels, self.num_classes, split)
            if problem:
                yield problem
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            wanted = f"{train.dtype} {train.shape[1:]} as train_images are"
            yield f"test_images are {test.dtype} {test.shape[1:]}, must be {wanted}"
        counts = np.bincount(self.train_labels, minlength=self.num_classes)
        if not counts.all():
            empty = int(np.argmin(counts))
            name = short_name(self.class_names[empty])
            yield f"class {empty} ({name}) has no training image: {NO_GAPS}"
        for field in ("mean", "std"):
            value = getattr(self, field)
            if value.shape != train.shape[3:] or value.dtype != np.float32:
                wanted = f"float32 of shape {list(train.shape[3:])}"
                got = f"{value.dtype} of shape {list(value.shape)}"
                yield f"{field} must be {wanted}, got {got}"
            if not np.isfinite(value).all():
                yield f"{field} must be finite, got {value.tolist()}"
        if not (self.std > 0).all():
            yield f"std must be above zero, got {self.std.tolist()}"


def find_problem(
    images: np.ndarray, labels: np.ndarray, num_classes: int, split: str
) -> str | None:
    """Returns what is wrong with the arrays of a split, None if nothing is.

    They should be as `Dataset` has them; `split` is `train` or `test`.
    """
    name, shape = f"{split}_images", list(images.shape)
    if images.ndim != 4 or 0 in shape:
        return f"{name} must have shape [n, H, W, D] without a zero, got {shape}"
    if images.dtype not in (np.uint8, np.float32):
        return f"{name} must be uint8 or float32, got {images.dtype}"
    if images.dtype == np.float32:
        low, high = images.min(), images.max()
        # Not `low < 0 or high > 1`: a NaN must fail too.
        if not (low >= 0 and high <= 1):
            got = "NaN" if np.isnan(low) else f"values from {low} to {high}"
            return f"{name} must be in [0, 1] where they are float, got {got}"
    name, shape = f"{split}_labels", list(labels.shape)
    if shape != [len(images)]:
        wanted = f"shape {[len(images)]}, one label per image"
        return f"{name} must have {wanted}, got {shape}"
    if labels.dtype != np.int32:
        return f"{name} must be int32, got {labels.dtype}"
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        wanted = f"in [0, {num_classes}), one value per class name"
        return f"{name} must be {wanted}, got values from {low} to {high}"
    return None


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and standard deviation of each channel, for pixels in [0, 1].

    A channel that is the same everywhere gets the standard deviation 1, so that it can
    be divided by. `images` are `[n, H, W, D]` uint8, or float32 in [0, 1].

    Returns:
      Mean and standard deviation (of the population), both `[D]` float32; computed in
      float64.
    """
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    num_pixels, axes = images[..., 0].size, (0, 1, 2)
    chunks = [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]
    mean = sum(chunk.sum(axes, dtype=np.float64) for chunk in chunks) / num_pixels
    squares = (np.square(chunk.astype(np.float64) - mean) for chunk in chunks)
    std = np.sqrt(sum(square.sum(axes) for square in squares) / num_pixels)
    # Rounding leaves the deviation of a constant channel just above zero.
    is_constant = images.min(axes) == images.max(axes)
    std = np.where(is_constant, scale, std)
    return (mean / scale).astype(np.float32), (std / scale).astype(np.float32)
