"""Reads a folder of pictures, which has a sub-folder for each class."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import ExifTags, Image, ImageOps

from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files import DAMAGE

_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm"),
}
_SPLITS = ("train", "test")
# Rows and columns where pictures differ in size and no size is chosen.
_SIDE = 32
# Modes of more than 8 bits per channel, which a conversion would silently clip.
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "LA")
# The values of EXIF's orientation that exchange rows and columns.
_TURNED = (5, 6, 7, 8)
# What Pillow raises on files that are damaged or malicious.
_DAMAGE = (
    *DAMAGE,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    AssertionError,
    AttributeError,
)


@dataclasses.dataclass(frozen=True)
class _Picture:
    """What the header of a file says about its picture."""

    path: Path
    label: int
    size: tuple[int, int]  # (H, W)
    is_grey: bool


def read_folder(
    folder: Path, image_size: int | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads all pictures of a folder into memory.

    The classes are the names of the sub-folders, in alphabetical order. In each, all
    files with the suffix of a picture are read, also in deeper folders, except hidden
    ones. If all pictures are grey, they stay grey; otherwise they become RGB. White is
    put behind transparent pictures. If the pictures differ in size, or a size is
    chosen, the shorter side is resized to it and the middle square is kept.

    The folder has the sub-folders, or `train` and `test`, each with the sub-folders.
    By default, `image_size`, rows and columns, is what all pictures have, or 32.

    Returns:
      `train_images`, `[n, H, W, D]` uint8, and `train_labels`, `[n]` int32, `test_...`
      too where there is `test`; and the names of the classes.

    Raises:
      UserError: there are no classes, one has no picture, or a file cannot be read.
    """
    has_splits = all((folder / split).is_dir() for split in _SPLITS)
    parts = {s: folder / s for s in _SPLITS} if has_splits else {"train": folder}
    names = sorted(path.name for path in _visible(parts["train"]) if path.is_dir())
    if not names:
        raise UserError(f"{parts['train']} has no sub-folders, one for each class.")
    pictures = {s: list(_find_pictures(part, names)) for s, part in parts.items()}
    every = [picture for split in pictures.values() for picture in split]
    mode = "L" if all(picture.is_grey for picture in every) else "RGB"
    sizes = {picture.size for picture in every}
    side = image_size or (None if len(sizes) == 1 else _SIDE)
    height, width = (side, side) if side else every[0].size
    size = f"{height}x{width} pixels (config.dataset.image_size)"
    what = f"{len(every)} pictures of {folder}, of {size},"
    check_fits(len(every) * height * width * len(mode), what)
    logging.info("%s: %s pictures of %d size(s).", folder, mode, len(sizes))
    if side:
        text = "They are resized to %dx%d, see config.dataset.image_size."
        logging.info(text, side, side)
    arrays = {}
    for split, found in pictures.items():
        arrays[f"{split}_images"] = _read(found, mode, side, (height, width))
        arrays[f"{split}_labels"] = np.array([p.label for p in found], np.int32)
    return arrays, tuple(names)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _find_pictures(folder: Path, names: Sequence[str]) -> Iterator[_Picture]:
    """Yields the pictures of all classes; each must have a sub-folder."""
    for path in _visible(folder):
        if path.is_dir() and path.name not in names:
            raise UserError(f"{path}: there is no class {path.name} in training.")
    ignored = 0
    for label, name in enumerate(names):
        files = sorted(
            path
            for path in (folder / name).rglob("*")
            # Folders can be hidden, too, such as `.ipynb_checkpoints`.
            if "/." not in f"/{path.relative_to(folder / name).as_posix()}"
            and path.is_file()
        )
        chosen = [path for path in files if path.suffix.lower() in _SUFFIXES]
        if not chosen:
            raise UserError(
                f"{folder / name} has no pictures ({', '.join(sorted(_SUFFIXES))})."
            )
        ignored += len(files) - len(chosen)
        for path in chosen:
            yield _look(path, label)
    if ignored:
        logging.info("%d file(s) in %s are no pictures; ignored.", ignored, folder)


def _look(path: Path, label: int) -> _Picture:
    """Returns what the header says, without decoding the picture."""
    with _opened(path) as picture:
        width, height = picture.size
        if picture.getexif().get(ExifTags.Base.Orientation) in _TURNED:
            width, height = height, width
        colours = picture.palette.mode if picture.mode == "P" else picture.mode
        return _Picture(path, label, (height, width), colours in _GREY)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens a picture; an error in reading it becomes a `UserError` with its path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.mode in _DEEP:
                    raise UserError(f"it has more than 8 bits ({picture.mode}).")
                yield picture
    except _DAMAGE as error:
        reason = one_line(error, 200)
        raise UserError(f"{path} is no picture that can be read: {reason}") from error


def _read(
    pictures: Sequence[_Picture], mode: str, side: int | None, size: tuple[int, int]
) -> np.ndarray:
    """Returns the pixels of pictures, `[n, H, W, D]` uint8; `size` is (H, W)."""
    images = np.empty((len(pictures), *size, len(mode)), np.uint8)
    for place, picture in enumerate(pictures):
        with _opened(picture.path) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            pixels = upright.convert("RGB").convert(mode)
            if side is not None:
                pixels = ImageOps.fit(pixels, (side, side), Image.Resampling.LANCZOS)
            # Fails where the header gives another size than the data.
            images[place] = np.asarray(pixels).reshape(images.shape[1:])
    return images
