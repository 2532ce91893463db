"""Tiles images into one picture; draws a set with the names of its classes."""

import io
import math
import os
from collections.abc import Sequence

import numpy as np

from dc_jax.base import SyntheticSet
from dc_jax.errors import printable
from dc_jax.files.content import write_atomically
from dc_jax.sets.set_file import set_pixels

# Sizes in pixels of the labelled picture.
_IMAGE = 64  # Each image is enlarged to at most this size, by a whole factor.
_ROW_WIDTH = 1600  # The images of a row take at most this width.
_GAP = 2  # Between two images.
_MARGIN = 10
_LABEL = 150  # A class name takes at most this width.
_LETTERS = 200  # At most as many are looked at.
_ASPECT = 1.3  # The ratio of width to height to aim at.


def save_image_grid(path: str | os.PathLike, synthetic_set: SyntheticSet) -> None:
    """Writes a set as a PNG that `draw_grid` draws; its folder is made where needed."""
    pixels = set_pixels(synthetic_set, blank=255)  # As white as the paper.
    buffer = io.BytesIO()
    draw_grid(pixels, synthetic_set.class_names).save(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def tile(
    pixels: np.ndarray, columns: int | None = None, *, gap: int = 1, scale: int = 1
) -> np.ndarray:
    """Tiles images into one picture with transparent gaps; a class begins a new row.

    Args:
      pixels: `[C, I, H, W, D]` uint8. With D below 3 the first channel is drawn in
        grey. Otherwise the first three channels are red, green and blue.
      columns: the largest number of images in a row; None puts all of a class in one.
      gap: pixels between two images, at least 1.
      scale: the factor by which each image is enlarged.

    Returns:
      `[height, width, 2 or 4]` uint8: grey or RGB, then alpha, which is 255 on images
      and 0 elsewhere.
    """
    pixels = pixels[..., : 3 if pixels.shape[-1] >= 3 else 1]
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    num_classes, num_images, height, width, channels = pixels.shape
    columns = min(columns or num_images, num_images)
    rows = math.ceil(num_images / columns)
    cell = (height + gap, width + gap)
    cells = np.zeros((num_classes, rows * columns, *cell, channels + 1), np.uint8)
    cells[:, :num_images, :height, :width, :-1] = pixels
    cells[:, :num_images, :height, :width, -1] = 255
    cells = cells.reshape(num_classes * rows, columns, *cell, channels + 1)
    picture = cells.swapaxes(1, 2).reshape(
        num_classes * rows * cell[0], columns * cell[1], channels + 1
    )
    return picture[:-gap, :-gap]


def to_png(picture: np.ndarray) -> bytes:
    """Returns a picture `[height, width, 1 to 4]` uint8 as a PNG; see `tile`."""
    from PIL import Image

    buffer = io.BytesIO()
    if picture.shape[-1] == 1:
        picture = picture[..., 0]
    Image.fromarray(picture).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def draw_grid(pixels: np.ndarray, class_names: Sequence[str], max_columns: int = 25):
    """Draws the images of each class on white, the class name at the left.

    Short rows are laid out side by side in several blocks. A class with more than
    `max_columns` images has several lines. `[C, I, H, W, D]` uint8 -> a `PIL.Image`;
    see `tile` for the channels.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    num_classes, num_images, height, width, _ = pixels.shape
    columns = min(num_images, max_columns)
    scale = min(_IMAGE // max(height, width), _ROW_WIDTH // (columns * width))
    options = {"columns": columns, "gap": _GAP, "scale": max(scale, 1)}
    tiles = [Image.fromarray(tile(one[None], **options)) for one in pixels]
    row_width, row_height = tiles[0].size

    # Pillow's own font has Latin letters only.
    file = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(file, size=min(max(height * scale // 4, 12), 16))
    names = [_shorten(name, font) for name in class_names]
    indent = math.ceil(max(map(font.getlength, names))) + 6
    # Rows are further apart than images where a class has several lines.
    pitch = row_height + (_GAP if num_images <= columns else 4 * _GAP)
    block = indent + row_width + 2 * _MARGIN
    rows = _choose_rows(num_classes, block, pitch)
    size = (math.ceil(num_classes / rows) * block, rows * pitch + 2 * _MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for index, (name, images) in enumerate(zip(names, tiles, strict=True)):
        left = index // rows * block + _MARGIN + indent
        top = index % rows * pitch + _MARGIN
        picture.paste(images.convert("RGB"), (left, top), images.getchannel("A"))
        middle = (left - 6, top + row_height / 2)
        draw.text(middle, name, "black", font=font, anchor="rm")
    return picture


def _choose_rows(num_classes: int, block: int, pitch: int) -> int:
    """Returns how many classes to stack before the next block begins at the right."""

    def cost(rows: int) -> float:
        blocks = math.ceil(num_classes / rows)
        empty = blocks * rows - num_classes
        aspect = blocks * block / (rows * pitch)
        # A ragged last block is worse than an odd shape, hence the factor.
        return abs(math.log(aspect / _ASPECT)) + 4 * empty / num_classes

    return min(range(1, num_classes + 1), key=cost)


def _shorten(name: str, font) -> str:
    """Returns the name on one line, cut to the width of a label."""
    # More letters than that have no room, and measuring them takes long.
    name = printable(" ".join(name[:_LETTERS].split()))
    if font.getlength(name) <= _LABEL:
        return name
    while font.getlength(name + "…") > _LABEL:
        name = name[:-1]
    return name.rstrip() + "…"
