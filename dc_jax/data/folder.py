"""Reads a folder of pictures, which has a sub-folder for each class."""

import contextlib
import dataclasses
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image, ImageOps, UnidentifiedImageError

from dc_jax.errors import UserError, check_fits, one_line

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
# The tag of EXIF, and its values that exchange rows and columns.
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
# What Pillow raises on files that are damaged or malicious.
_DAMAGE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    struct.error,
    zlib.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
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

    Args:
      folder: has the sub-folders, or `train` and `test`, each with the sub-folders.
      image_size: rows and columns. None keeps the size that all have, or takes 32.

    Returns:
      `train_images` of shape `[n, H, W, D]` uint8 and `train_labels` of shape `[n]`
      int32, `test_images` and `test_labels` too where there is `test`; and the names of
      the classes.

    Raises:
      UserError: there are no classes, one has no picture, or a file cannot be read.
    """
    has_splits = all((folder / split).is_dir() for split in _SPLITS)
    parts = {s: folder / s for s in _SPLITS} if has_splits else {"train": folder}
    names = _class_names(parts["train"])
    pictures = {
        split: list(_find_pictures(part, names)) for split, part in parts.items()
    }
    every = [picture for split in pictures.values() for picture in split]
    mode = "L" if all(picture.is_grey for picture in every) else "RGB"
    sizes = {picture.size for picture in every}
    side = image_size or (None if len(sizes) == 1 else _SIDE)
    height, width = (side, side) if side else every[0].size
    check_fits(
        len(every) * height * width * len(mode),
        f"{len(every)} pictures of {folder}, of {height}x{width} pixels "
        "(config.dataset.image_size),",
    )
    _log_choices(folder, sizes, mode, side)
    arrays = {}
    for split, found in pictures.items():
        arrays[f"{split}_images"] = _read(found, mode, side)
        labels = [picture.label for picture in found]
        arrays[f"{split}_labels"] = np.array(labels, np.int32)
    return arrays, names


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in _visible(folder) if path.is_dir())
    if not names:
        raise UserError(
            f"{folder} has no sub-folders: there must be one for each class, with its "
            "pictures."
        )
    return tuple(names)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _is_hidden(path: Path) -> bool:
    """Whether a part of the path is hidden, such as `.ipynb_checkpoints`."""
    return any(part.startswith(".") for part in path.parts)


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
            if path.is_file() and not _is_hidden(path.relative_to(folder / name))
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
        if picture.getexif().get(_ORIENTATION, 1) in _TURNED:
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


def _read(pictures: Sequence[_Picture], mode: str, side: int | None) -> np.ndarray:
    """Returns the pixels of the pictures, `[n, H, W, D]` uint8."""
    height, width = (side, side) if side else pictures[0].size
    shape = (len(pictures), height, width, len(mode))
    pixels = np.empty(shape, np.uint8)
    for place, picture in enumerate(pictures):
        pixels[place] = _pixels(picture.path, mode, side, shape[1:])
    return pixels


def _pixels(
    path: Path, mode: str, side: int | None, shape: tuple[int, ...]
) -> np.ndarray:
    with _opened(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        converted = upright.convert("RGB").convert(mode)
        if side is not None:
            converted = ImageOps.fit(converted, (side, side), Image.Resampling.LANCZOS)
        # Fails where the header gives another size than the data.
        return np.asarray(converted).reshape(shape)


def _log_choices(
    folder: Path, sizes: set[tuple[int, int]], mode: str, side: int | None
) -> None:
    kind = "grey" if mode == "L" else "RGB"
    if side is None:
        ((height, width),) = sizes
        logging.info("Pictures of %s: %s, all %dx%d.", folder, kind, height, width)
    else:
        logging.info(
            "Pictures of %s: %s, of %d size(s), resized to %dx%d (shorter side, then "
            "the middle); config.dataset.image_size chooses another.",
            *(folder, kind, len(sizes), side, side),
        )
