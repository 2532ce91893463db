"""Decodes pictures, such as PNG and JPEG, to arrays of one size."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import ExifTags, Image, ImageOps

from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files import DAMAGE

# Those of Pillow that are read. Others start programs, as PostScript does.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
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
# How many pictures that cannot be read an error names, and how many the log.
_NAMED, _LOGGED = 20, 1000


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A picture that is not decoded yet."""

    name: str  # For errors, such as its path.
    label: int
    content: Path | bytes  # A file, or what would be in it.


@dataclasses.dataclass(frozen=True)
class _Header:
    """What the header of a picture says."""

    size: tuple[int, int]  # (H, W), as it is seen.
    is_grey: bool


def decode(
    splits: Mapping[str, Sequence[Encoded]], where: str, image_size: int | None = None
) -> dict[str, np.ndarray]:
    """Decodes the pictures of all splits into memory.

    If all are grey, they stay grey; otherwise they become RGB. White is put behind
    transparent pictures. If the pictures differ in size, or a size is chosen, the
    shorter side is resized to it and the middle square is kept. By default,
    `image_size`, rows and columns, is what all pictures have, or 32. `where` says
    where they come from.

    Returns:
      For each split, as for "train", `train_images`, `[n, H, W, D]` uint8, and
      `train_labels`, `[n]` int32.

    Raises:
      UserError: some cannot be read; it names all of them. Or they do not fit into
        memory.
    """
    faults: dict[str, str] = {}
    headers = {}
    for pictures in splits.values():
        for picture in pictures:
            with _noting(faults, picture):
                headers[picture.name] = _read_header(picture)
    if not headers:
        _raise_faults(faults, where)
    mode = "L" if all(header.is_grey for header in headers.values()) else "RGB"
    sizes = {header.size for header in headers.values()}
    side = image_size or (None if len(sizes) == 1 else _SIDE)
    height, width = (side, side) if side else next(iter(sizes))
    size = f"{height}x{width} pixels (config.dataset.image_size)"
    what = f"{len(headers)} pictures of {where}, of {size},"
    check_fits(len(headers) * height * width * len(mode), what)
    logging.info("%s: %s pictures of %d size(s).", where, mode, len(sizes))
    if side:
        text = "They are resized to %dx%d, see config.dataset.image_size."
        logging.info(text, side, side)
    arrays = {}
    for split, pictures in splits.items():
        whole = [picture for picture in pictures if picture.name in headers]
        images = _decode_split(whole, mode, side, (height, width), faults)
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = np.array([p.label for p in pictures], np.int32)
    if faults:
        _raise_faults(faults, where)
    return arrays


def _decode_split(
    pictures: Sequence[Encoded],
    mode: str,
    side: int | None,
    size: tuple[int, int],
    faults: dict[str, str],
) -> np.ndarray:
    """Returns the pixels of pictures, `[n, H, W, D]` uint8; `size` is (H, W)."""
    images = np.empty((len(pictures), *size, len(mode)), np.uint8)
    for place, picture in enumerate(pictures):
        with _noting(faults, picture):
            images[place] = _read_pixels(picture, mode, side).reshape(images.shape[1:])
    return images


def _read_header(picture: Encoded) -> _Header:
    """Returns what the header says, without decoding the picture."""
    with _opened(picture) as opened:
        width, height = opened.size
        if opened.getexif().get(ExifTags.Base.Orientation) in _TURNED:
            width, height = height, width
        colours = opened.palette.mode if opened.mode == "P" else opened.mode
        return _Header((height, width), colours in _GREY)


def _read_pixels(picture: Encoded, mode: str, side: int | None) -> np.ndarray:
    with _opened(picture) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        pixels = upright.convert("RGB").convert(mode)
        if side is not None:
            pixels = ImageOps.fit(pixels, (side, side), Image.Resampling.LANCZOS)
        return np.asarray(pixels)


@contextlib.contextmanager
def _opened(picture: Encoded) -> Iterator[Image.Image]:
    """Opens a picture; raises one of `_DAMAGE` where it cannot be read."""
    content = picture.content
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=FORMATS) as opened:
            if opened.mode in _DEEP:
                raise UserError(f"it has more than 8 bits ({opened.mode}).")
            yield opened


@contextlib.contextmanager
def _noting(faults: dict[str, str], picture: Encoded) -> Iterator[None]:
    """Notes why a picture cannot be read, and goes on."""
    try:
        yield
    except _DAMAGE as error:
        reason = one_line(error, 200)
        if isinstance(picture.content, bytes):
            # Pillow names an object in memory.
            reason = reason.partition(" <_io.BytesIO")[0]
        faults[picture.name] = reason


def _raise_faults(faults: Mapping[str, str], where: str) -> None:
    """Raises the error that names all pictures that cannot be read."""
    if len(faults) == 1:
        ((name, reason),) = faults.items()
        raise UserError(f"{name} is no picture that can be read: {reason}")
    for name, reason in [*faults.items()][:_LOGGED]:
        logging.warning("%s is no picture that can be read: %s", name, reason)
    told = [f"{name} ({reason})" for name, reason in [*faults.items()][:_NAMED]]
    if len(faults) > _NAMED:
        told.append(f"and {len(faults) - _NAMED} more, which the log names")
    raise UserError(
        f"{len(faults)} pictures of {where} cannot be read: {', '.join(told)}."
    )
