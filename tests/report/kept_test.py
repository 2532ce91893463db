"""Tests of what a run keeps for its report: round trips, neighbours, damage."""

import io
import struct

import numpy as np
import pytest
import toy
from PIL import Image

from dc_jax.base import SyntheticSet, make_labels
from dc_jax.report import kept
from dc_jax.sets.image_grid import to_png

MEAN, STD = np.float32([0.5]), np.float32([0.25])


def _open(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)


def _numbered(num_classes, ipc, size=1):
    """Pixels `[C, I, size, size, 1]`: the images are 1, 2, 3, ... throughout."""
    numbers = 1 + np.arange(num_classes * ipc, dtype=np.uint8)
    pixels = numbers.reshape(num_classes, ipc, 1, 1, 1)
    return np.broadcast_to(pixels, (num_classes, ipc, size, size, 1))


def _normalised(pixels):
    return ((pixels / np.float32(255)) - MEAN) / STD


def _make_set(pixels):
    num_classes, ipc = pixels.shape[:2]
    return SyntheticSet(
        images=_normalised(pixels),
        labels=make_labels((ipc,) * num_classes),
        mean=MEAN,
        std=STD,
        class_names=tuple(map(str, range(num_classes))),
    )


def test_snapshots_are_of_round_numbers():
    chosen = [i for i in range(2001) if kept.is_snapshot(i)]
    assert chosen == [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]


def test_each_class_is_a_row_of_a_snapshot():
    picture = _open(kept.snapshot(_make_set(_numbered(2, 3, size=2))))
    first, second = [1, 1, 0, 2, 2, 0, 3, 3], [4, 4, 0, 5, 5, 0, 6, 6]
    rows = np.array([first, first, 8 * [0], second, second])
    np.testing.assert_array_equal(picture[..., 0], rows)
    np.testing.assert_array_equal(picture[..., 1], 255 * (rows > 0))


def test_ten_classes_of_one_image_are_a_row_of_a_snapshot():
    picture = _open(kept.snapshot(_make_set(_numbered(12, 1))))
    rows = [range(1, 11), [11, 12] + 8 * [0]]
    np.testing.assert_array_equal(picture[::2, ::2, 0], rows)


def test_snapshots_are_read_in_their_order(tmp_path):
    pictures = {i: to_png(np.full((1, 1, 1), i, np.uint8)) for i in (10, 2, 0)}
    for iteration, png in pictures.items():
        kept.save_snapshot(tmp_path, iteration, png)
    (tmp_path / "snapshots" / "other.png").write_bytes(b"")
    (tmp_path / "snapshots" / "1.txt").write_bytes(b"")
    read = kept.read_snapshots(tmp_path)
    assert list(read) == [0, 2, 10]
    assert read == pictures
    assert [_open(png).item() for png in read.values()] == [0, 2, 10]


def test_snapshots_that_will_be_made_again_are_dropped(tmp_path):
    kept.drop_snapshots(tmp_path, after=0)
    png = to_png(np.zeros((1, 1, 1), np.uint8))
    for iteration in (0, 5, 10, 20):
        kept.save_snapshot(tmp_path, iteration, png)
    kept.drop_snapshots(tmp_path, after=5)
    assert list(kept.read_snapshots(tmp_path)) == [0, 5]


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_a_damaged_snapshot_is_left_out(tmp_path, damage):
    rng = np.random.default_rng(0)
    png = to_png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    kept.save_snapshot(tmp_path, 1, png)
    middle = len(png) // 2
    damaged = {
        "empty": b"",
        "text": b"<html>",
        "cut": png[:middle],
        "flipped": png[:middle] + bytes([png[middle] ^ 255]) + png[middle + 1 :],
    }
    kept.save_snapshot(tmp_path, 2, damaged[damage])
    assert list(kept.read_snapshots(tmp_path)) == [1]


@pytest.mark.parametrize(
    ("num_classes", "ipc", "num_bytes", "shape"),
    [
        (3, 4, 48, (3, 4)),  # All: four bytes an image.
        (3, 4, 47, (3, 3)),
        (3, 4, 12, (3, 1)),
        (3, 4, 11, (2, 1)),
        (3, 4, 3, (1, 1)),
    ],
)
def test_shown_images_fit_the_bytes(num_classes, ipc, num_bytes, shape):
    images = _numbered(num_classes, ipc, size=2)
    shown = kept.shown(images, num_bytes)
    np.testing.assert_array_equal(shown, images[: shape[0], : shape[1]])


def test_confusion_is_read_as_written(tmp_path):
    counts = np.array([[5.0, 0.0], [2.0, 3.0]])
    kept.save_confusion(tmp_path, counts)
    assert (tmp_path / "confusion.csv").read_text() == "5,0\n2,3\n"
    np.testing.assert_array_equal(
        kept.read_confusion(tmp_path / "confusion.csv"), counts
    )


@pytest.mark.parametrize(
    "text",
    ["", "1,2", "1,2\n3", "1,2\n3,x", "1,-2\n3,4", "1,2\n3,9" + 30 * "9", "1.5"],
)
def test_damaged_confusion(tmp_path, text):
    path = tmp_path / "confusion.csv"
    path.write_text(text)
    with pytest.raises((OverflowError, ValueError)):
        kept.read_confusion(path)


def _dataset(dtype=np.uint8):
    """Images of 2x1 pixels, of the classes b, a, b."""
    pixels = np.array([[0, 0], [100, 0], [255, 255]], np.uint8).reshape(3, 2, 1, 1)
    if dtype == np.float32:
        pixels = (pixels / np.float32(255)).astype(np.float32)
    return toy.make_dataset(pixels, [1, 0, 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("chunk", [1, 16, 10**6])
def test_neighbours_by_hand(monkeypatch, dtype, chunk):
    monkeypatch.setattr(kept, "_CHUNK", chunk)
    unit = np.array([[[104, 3]], [[255, 205]]]) / 255
    found = kept.find_neighbours(unit.reshape(2, 1, 2, 1, 1), _dataset(dtype))
    np.testing.assert_array_equal(found.indices, [[1], [2]])
    np.testing.assert_array_equal(found.labels, [[0], [1]])
    np.testing.assert_array_equal(found.pixels.ravel(), [100, 0, 255, 255])
    assert found.pixels.dtype == np.uint8
    # (4, 3) and (0, 50), over the root of two pixels.
    expected = np.array([[5], [50]]) / 255 / np.sqrt(2)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-4)


def test_neighbours_are_those_of_a_plain_search(monkeypatch):
    monkeypatch.setattr(kept, "_CHUNK", 4 * 7 * 48)
    dataset = toy.random_dataset((30, 21), (4, 4, 3), mean=(0.5,) * 3, std=(0.2,) * 3)
    unit = np.random.default_rng(1).random((2, 3, 4, 4, 3))
    found = kept.find_neighbours(unit, dataset)
    real = dataset.train_images.reshape(-1, 48) / 255
    distances = np.sqrt(((unit.reshape(6, 1, 48) - real) ** 2).mean(-1))
    np.testing.assert_array_equal(found.indices.ravel(), distances.argmin(1))
    np.testing.assert_allclose(found.distances.ravel(), distances.min(1), rtol=1e-5)
    np.testing.assert_array_equal(found.labels, dataset.train_labels[found.indices])
    np.testing.assert_array_equal(found.pixels, dataset.train_images[found.indices])


def test_training_images_may_be_mapped_from_a_file(tmp_path):
    dataset = toy.random_dataset((5, 6), (4, 4, 1))
    np.save(tmp_path / "images.npy", dataset.train_images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    unit = np.random.default_rng(1).random((2, 1, 4, 4, 1))
    found = kept.find_neighbours(unit, toy.make_dataset(mapped, dataset.train_labels))
    expected = kept.find_neighbours(unit, dataset)
    np.testing.assert_array_equal(found.pixels, expected.pixels)


def _save_neighbours(folder):
    pixels = np.array([[90, 0], [255, 250]]).reshape(2, 1, 2, 1, 1)
    images = (pixels / np.float32(255) - MEAN) / STD
    synthetic = SyntheticSet(images, np.array([[0], [1]]), MEAN, STD, ("a", "b"))
    kept.save_neighbours(folder, synthetic, _dataset())


def test_neighbours_are_read_as_written(tmp_path):
    _save_neighbours(tmp_path)
    found = kept.read_neighbours(tmp_path / "neighbours.npz")
    np.testing.assert_array_equal(found.indices, [[1], [2]])
    expected = np.array([[10], [5]]) / 255 / np.sqrt(2)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": np.zeros((2, 1, 2, 1, 1))},
        {"pixels": np.zeros((2, 1), np.uint8)},
        {"labels": np.zeros((2, 1))},
        {"labels": np.zeros(2, np.int32)},
        {"indices": np.zeros((1, 2), np.int64)},
        {"labels": np.full((2, 1), -1, np.int32)},
        {"distances": np.full((2, 1), "far")},
    ],
)
def test_damaged_neighbours(tmp_path, change):
    _save_neighbours(tmp_path)
    path = tmp_path / "neighbours.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | change))
    with pytest.raises(ValueError, match="holds no neighbours"):
        kept.read_neighbours(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        kept.read_neighbours(path)


def _png(width, height):
    """The beginning of a PNG of a size, which has no pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, format="png")
    data = buffer.getvalue()
    return data[:16] + struct.pack(">II", width, height) + data[24:]


def test_snapshots_of_strangers_are_not_read(tmp_path, caplog):
    picture = kept.snapshot(_make_set(_numbered(2, 3)))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    for iteration, data in enumerate(
        [picture, _png(20_000, 20_000), _png(2**31, 1), postscript, b"", picture[:30]]
    ):
        kept.save_snapshot(tmp_path, 10**iteration, data)
    assert kept.read_snapshots(tmp_path) == {1: picture}
    assert len(caplog.records) == 5


def test_the_size_of_a_picture_is_that_of_its_header():
    assert kept.size_of(kept.snapshot(_make_set(_numbered(2, 3, size=2)))) == (8, 5)
    assert kept.size_of(_png(3, 7)) == (3, 7)
    with pytest.raises(ValueError, match="no PNG"):
        kept.size_of(b"GIF89a" * 10)
