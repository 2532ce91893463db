"""Draws a set of images as one picture: a row a class, its name at the left."""

import io
import math
import os
from collections.abc import Sequence

import numpy as np

from dc_jax.base import SyntheticSet
from dc_jax.errors import UserError
from dc_jax.files import write_atomically
from dc_jax.sets.set_file import set_pixels


def save_image_grid(
    path: str | os.PathLike, synthetic_set: SyntheticSet, max_columns: int = 25
) -> None:
    """Writes a set as one PNG: a row a class, its name at the left.

    Args:
      path: file to write; its folder is made where needed.
      synthetic_set: the set to draw.
      max_columns: how many images to draw in a line, at most.
    """
    pixels = set_pixels(synthetic_set, blank=255)  # As white as the paper.
    picture = draw_grid(pixels, synthetic_set.class_names, max_columns)
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    write_atomically(path, buffer.getvalue())


# Sizes in pixels of the picture.
_IMAGE = 64  # What one image is enlarged to, by a whole factor, where there is room.
_ROW_WIDTH = 1600  # The room that the images of a row may take.
_GAP = 2  # Between images.
_MARGIN = 10
_LABEL = 150  # The room that a class name may take.
_ASPECT = 1.3  # The shape of picture aimed at, width to height.


def draw_grid(pixels: np.ndarray, class_names: Sequence[str], max_columns: int = 25):
    """Draws images, class by class.

    Rows that are short are laid out side by side in several blocks; classes with more
    than `max_columns` images go on in the next line.

    Args:
      pixels: `[C, I, H, W, D]` uint8. With D below 3 the first channel is drawn in
        grey, with more the first three are taken as red, green and blue.
      class_names: the C names.
      max_columns: how many images to draw in a line, at most.

    Returns:
      A `PIL.Image.Image`.

    Raises:
      UserError: `max_columns` is below 1.
    """
    if max_columns < 1:
        raise UserError(f"max_columns must be >= 1, got {max_columns}.")
    from PIL import Image, ImageDraw

    num_classes, num_images, height, width, _ = pixels.shape
    columns = min(num_images, max_columns)
    scale = min(_IMAGE // max(height, width), _ROW_WIDTH // (columns * width))
    tiles = _tile_classes(_to_rgb(pixels), columns, max(scale, 1))
    row_height, row_width = tiles.shape[1:3]

    font = _load_font(size=min(max(height * scale // 4, 12), 16))
    names = [_shorten(name, font) for name in class_names]
    indent = math.ceil(max(map(font.getlength, names))) + 6
    # Rows are further apart than images where a class has several lines.
    pitch = row_height + (_GAP if num_images <= columns else 4 * _GAP)
    block = indent + row_width + 2 * _MARGIN
    rows = _choose_rows(num_classes, block, pitch)
    blocks = math.ceil(num_classes / rows)

    size = (blocks * block, rows * pitch + 2 * _MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for index, (name, tile) in enumerate(zip(names, tiles, strict=True)):
        left = index // rows * block + _MARGIN + indent
        top = index % rows * pitch + _MARGIN
        picture.paste(Image.fromarray(tile), (left, top))
        draw.text(
            (left - 6, top + row_height / 2), name, "black", font=font, anchor="rm"
        )
    return picture


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[-1] < 3:
        return np.repeat(pixels[..., :1], 3, axis=-1)
    return pixels[..., :3]


def _tile_classes(pixels: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """Returns `[C, rows, columns, 3]`: the images of each class on white, enlarged."""
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    num_classes, num_images, height, width, _ = pixels.shape
    lines = math.ceil(num_images / columns)
    cell = (height + _GAP, width + _GAP)
    cells = np.full((num_classes, lines * columns, *cell, 3), 255, np.uint8)
    cells[:, :num_images, :height, :width] = pixels
    cells = cells.reshape(num_classes, lines, columns, *cell, 3)
    tiles = cells.swapaxes(2, 3).reshape(
        num_classes, lines * cell[0], columns * cell[1], 3
    )
    return tiles[:, :-_GAP, :-_GAP]


def _choose_rows(num_classes: int, block: int, pitch: int) -> int:
    """Returns how many classes to stack before a new block is begun at the right."""

    def cost(rows: int) -> float:
        blocks = math.ceil(num_classes / rows)
        empty = blocks * rows - num_classes
        aspect = blocks * block / (rows * pitch)
        # The factor: a ragged last block is worse than an odd shape.
        return abs(math.log(aspect / _ASPECT)) + 4 * empty / num_classes

    return min(range(1, num_classes + 1), key=cost)


def _load_font(size: int):
    import matplotlib
    from PIL import ImageFont

    # Pillow's own font has Latin letters only.
    fonts = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(os.path.join(fonts, "DejaVuSans.ttf"), size)


def _shorten(name: str, font) -> str:
    """Returns the name on one line, cut to the room for it."""
    name = " ".join(name.split())
    if font.getlength(name) <= _LABEL:
        return name
    while font.getlength(name + "…") > _LABEL:
        name = name[:-1]
    return name.rstrip() + "…"
