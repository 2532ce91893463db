"""Tests of tiled images and of the labelled picture of a set."""

import numpy as np
import pytest
from PIL import Image

from dc_jax.base import SyntheticSet
from dc_jax.sets import image_grid


def _draw(pixels, names, **kwargs):
    return np.asarray(image_grid.draw_grid(pixels, names, **kwargs))


def _numbered(num_classes, num, depth=1):
    """Images of one pixel, `[C, I, 1, 1, D]`, with the values 1, 2, 3, ..."""
    values = 1 + np.arange(num_classes * num, dtype=np.uint8)
    return np.repeat(values.reshape(num_classes, num, 1, 1, 1), depth, axis=-1)


def test_tiles_by_hand():
    pixels = _numbered(2, 3)
    gap = [0, 0, 0]
    rows = [[1, 0, 2], gap, [3, 0, 0], gap, [4, 0, 5], gap, [6, 0, 0]]
    picture = image_grid.tile(pixels, 2)
    np.testing.assert_array_equal(picture[..., 0], rows)
    np.testing.assert_array_equal(picture[..., 1], 255 * (np.array(rows) > 0))
    rows = [[1, 0, 2, 0, 3], 5 * [0], [4, 0, 5, 0, 6]]
    np.testing.assert_array_equal(image_grid.tile(pixels)[..., 0], rows)
    np.testing.assert_array_equal(image_grid.tile(pixels, 9)[..., 0], rows)


def test_tiles_are_enlarged_and_gaps_are_not():
    picture = image_grid.tile(_numbered(1, 2), gap=3, scale=2)
    np.testing.assert_array_equal(picture[..., 0], 2 * [[1, 1, 0, 0, 0, 2, 2]])


@pytest.mark.parametrize(("depth", "channels"), [(1, 2), (2, 2), (3, 4), (5, 4)])
def test_tiles_are_grey_or_in_colour_and_have_alpha(depth, channels):
    picture = image_grid.tile(_numbered(1, 1, depth))
    np.testing.assert_array_equal(picture, [[(channels - 1) * [1] + [255]]])


def test_images_are_drawn_in_order():
    pixels = np.zeros((2, 3, 32, 32, 1), np.uint8)
    pixels += np.arange(10, 70, 10, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    drawn = _draw(pixels, ("", ""), max_columns=2)
    corners = {}
    for value in np.unique(pixels):
        places = np.argwhere((drawn == value).all(axis=-1))
        assert len(places) == 64 * 64  # Twice as large, in grey.
        corners[int(value)] = places[0]
    # Class 0 is 10 20 / 30 and class 1 is 40 50 / 60; gaps are two pixels.
    np.testing.assert_array_equal(corners[20] - corners[10], [0, 66])
    np.testing.assert_array_equal(corners[30] - corners[10], [66, 0])
    np.testing.assert_array_equal(corners[50] - corners[40], [0, 66])
    np.testing.assert_array_equal(corners[60] - corners[40], [66, 0])


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, (9, 9, 9)), (2, (9, 9, 9)), (4, (9, 19, 29))]
)
def test_channels(channels, expected):
    pixels = np.zeros((1, 1, 8, 8, channels), np.uint8)
    pixels += np.arange(9, 9 + 10 * channels, 10, dtype=np.uint8)[
        None, None, None, None
    ]
    drawn = _draw(pixels, ("name",))
    assert np.sum((drawn == expected).all(axis=-1)) == 64 * 64


def test_class_name_is_left_of_its_images():
    pixels = np.full((2, 1, 64, 64, 1), 100, np.uint8)
    named = _draw(pixels, ("cat", "cat"))
    blank = _draw(pixels, ("   ", "cat"))
    assert named.shape == blank.shape
    rows, columns = np.nonzero((named != blank).any(axis=-1))
    assert len(rows) > 50
    images = np.argwhere((named == 100).all(axis=-1))
    assert columns.max() < images[0][1]
    assert images[0][0] < rows.min() <= rows.max() < images[0][0] + 64


@pytest.mark.parametrize(
    ("num_classes", "num_images", "side", "channels"),
    [(10, 10, 8, 1), (10, 1, 28, 1), (3, 50, 8, 3), (100, 1, 32, 3), (2, 3, 70, 5)],
)
def test_saved_picture(tmp_path, num_classes, num_images, side, channels):
    shape = (num_classes, num_images, side, side, channels)
    labels = np.repeat(np.arange(num_classes, dtype=np.int32)[:, None], num_images, 1)
    synthetic_set = SyntheticSet(
        images=np.zeros(shape, np.float32),
        labels=labels,
        mean=np.full(channels, 0.5, np.float32),
        std=np.full(channels, 0.25, np.float32),
        class_names=tuple(map(str, range(num_classes))),
    )
    image_grid.save_image_grid(tmp_path / "grid.png", synthetic_set)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.format == "PNG"
        picture.load()
    # Room for every image, and no more than about as much again.
    columns = min(num_images, 25)
    scale = max(1, min(64 // side, 1600 // (columns * side)))
    drawn = num_classes * num_images * (side * scale) ** 2
    assert drawn < picture.width * picture.height < 3 * drawn


def test_any_class_name():
    names = ("", "long " * 50, "two\nlines", "Größe ж 猫", "\t")
    assert _draw(np.zeros((5, 1, 8, 8, 1), np.uint8), names).shape[1] < 800


@pytest.mark.parametrize(
    ("num_classes", "block", "pitch", "rows"),
    [
        (10, 700, 66, 10),  # Ten wide rows: one block.
        (10, 100, 66, 5),  # Ten short ones: two blocks, none of them ragged.
        (100, 230, 66, 17),
        (1, 100, 66, 1),
    ],
)
def test_blocks(num_classes, block, pitch, rows):
    assert image_grid._choose_rows(num_classes, block, pitch) == rows
