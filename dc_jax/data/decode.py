"""Decodes pictures, such as PNG and JPEG, to arrays of one size."""

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import ExifTags, Image, ImageOps

from dc_jax.data import kept_pictures
from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files.content import DAMAGE
from dc_jax.progress import Progress

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
# How many pictures a thread takes at once.
_PART = 64
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
    """Decodes the pictures of all splits into memory, or finds them decoded.

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
    key = kept_pictures.find_key(splits, image_size)
    with Progress("Reading the decoded pictures"):
        images = None if key is None else kept_pictures.load(key)
    if images is None:
        images = _decode(splits, where, image_size)
        if key is not None:
            kept_pictures.keep(key, images, where)
    else:
        text = "%s: its pictures were decoded before, and have not changed since."
        logging.info(text, where)
    arrays = {}
    for split, pictures in splits.items():
        arrays[f"{split}_images"] = images[split]
        arrays[f"{split}_labels"] = np.array([p.label for p in pictures], np.int32)
    return arrays


def _decode(
    splits: Mapping[str, Sequence[Encoded]], where: str, image_size: int | None
) -> dict[str, np.ndarray]:
    """Returns the images of each split."""
    faults: dict[str, str] = {}
    every = [picture for pictures in splits.values() for picture in pictures]
    headers = dict(_on_all_cores(_read_header, every, "Looking at pictures", faults))
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
    images = {}
    for split, pictures in splits.items():
        whole = [picture for picture in pictures if picture.name in headers]
        shape = (height, width, len(mode))
        images[split] = _decode_split(whole, mode, side, shape, faults)
    if faults:
        _raise_faults(
            {p.name: faults[p.name] for p in every if p.name in faults}, where
        )
    return images


def _decode_split(
    pictures: Sequence[Encoded],
    mode: str,
    side: int | None,
    shape: tuple[int, int, int],
    faults: dict[str, str],
) -> np.ndarray:
    """Returns the pixels of pictures of a shape, `[n, H, W, D]` uint8."""
    images = np.empty((len(pictures), *shape), np.uint8)

    def put(picture: Encoded, place: int) -> None:
        images[place] = _read_pixels(picture, mode, side).reshape(shape)

    for _ in _on_all_cores(put, pictures, "Decoding pictures", faults):
        pass
    return images


def _on_all_cores(
    function: Callable[[Encoded, int], Any],
    pictures: Sequence[Encoded],
    title: str,
    faults: dict[str, str],
) -> Iterator[tuple[str, Any]]:
    """Yields names and what a function returns for pictures that can be read.

    It is given each picture and its place. It runs in threads: Pillow lets others run
    while it decodes.
    """

    def run(begin: int) -> list[tuple[str, Any]]:
        results = []
        for place, picture in enumerate(pictures[begin : begin + _PART], begin):
            with _noting(faults, picture):
                results.append((picture.name, function(picture, place)))
        return results

    progress = Progress(title, len(pictures), unit="pictures")
    pool = futures.ThreadPoolExecutor(os.cpu_count())
    # Not in each thread: the filters are those of all.
    with progress, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            begins = range(0, len(pictures), _PART)
            for begin, results in zip(begins, pool.map(run, begins), strict=True):
                yield from results
                progress.advance(min(_PART, len(pictures) - begin))
        finally:
            pool.shutdown(cancel_futures=True)


def _read_header(picture: Encoded, _: int) -> _Header:
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
