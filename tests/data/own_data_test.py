"""Own data: folders of pictures, files of arrays, and what is wrong with them."""

import io
import struct
import zlib

import numpy as np
import pytest
import run_helpers
from PIL import Image

from dc_jax.data.sources import load_dataset
from dc_jax.run import setup

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 10


def _write(path, pixels, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **kwargs)


def _folder(folder, num=5, classes=("cat", "dog"), pixels=GREY):
    for label, name in enumerate(classes):
        for i in range(num):
            _write(folder / name / f"{i}.png", pixels + np.uint8(label + 2 * i))
    return folder


def _load(path, name="folder", **kwargs):
    return load_dataset(name, str(path), **kwargs)


def test_a_folder_of_classes(tmp_path):
    dataset = _load(_folder(tmp_path))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_shape == (4, 5, 1)
    # A fifth of each class is tested with.
    np.testing.assert_array_equal(dataset.test_labels, [0, 1])
    np.testing.assert_array_equal(dataset.train_labels, [0] * 4 + [1] * 4)
    images = np.concatenate([dataset.train_images, dataset.test_images])[..., 0]
    assert sorted(images[:, 0, 0]) == list(range(10))
    assert _load(tmp_path).checksum() == dataset.checksum()


def test_folders_of_train_and_test(tmp_path):
    _folder(tmp_path / "train", 3)
    _folder(tmp_path / "test", 1)
    dataset = _load(tmp_path)
    np.testing.assert_array_equal(dataset.train_labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.test_labels, [0, 1])
    np.testing.assert_array_equal(dataset.test_images[1, ..., 0], GREY + 1)


def test_pictures_of_different_kinds_become_one(tmp_path):
    """Grey, colour, transparent, of a palette, turned, deeper down; and no picture."""
    folder = _folder(tmp_path)
    colour = np.stack([GREY, GREY + 1, GREY + 2], -1)
    _write(folder / "cat" / "more" / "colour.bmp", colour)
    transparent = np.dstack([colour, np.zeros_like(GREY)])
    _write(folder / "cat" / "transparent.png", transparent)
    Image.fromarray(colour + np.uint8(3)).quantize().save(
        folder / "dog" / "palette.gif"
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    _write(folder / "dog" / "turned.png", colour.transpose(1, 0, 2), exif=exif)
    (folder / "dog" / "notes.txt").write_text("not a picture")
    (folder / ".hidden").mkdir()
    dataset = _load(folder)
    assert dataset.image_shape == (4, 5, 3)
    images = np.concatenate([dataset.train_images, dataset.test_images])
    assert len(images) == 14
    assert (images == 255).all(axis=(1, 2, 3)).sum() == 1
    assert (images == colour).all(axis=(1, 2, 3)).sum() == 1
    assert (images == colour + 3).all(axis=(1, 2, 3)).sum() == 1
    turned = np.rot90(colour.transpose(1, 0, 2), -1)
    assert (images == turned).all(axis=(1, 2, 3)).sum() == 1


def test_sizes(tmp_path):
    folder = _folder(tmp_path)
    assert _load(folder, image_size=8).image_shape == (8, 8, 1)
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    _write(folder / "cat" / "wide.png", wide)
    dataset = _load(folder)
    assert dataset.image_shape == (32, 32, 1)
    images = np.concatenate([dataset.train_images, dataset.test_images])
    # The middle of the wide one, but for its edges.
    assert (images[:, :, 4:-4] > 240).all(axis=(1, 2, 3)).sum() == 1


def _png(width, height, data=b""):
    """A PNG of any header, with any data."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b""))
    )


def _deep_png():
    file = io.BytesIO()
    Image.fromarray(np.ones((4, 5), np.uint16)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot identify"),
        (b"hello", "cannot identify"),
        (_png(20_000, 20_000), "decompression bomb"),
        (_png(5, 4), "."),
        (_png(5, 4, zlib.compress(b"\0" * 7)), "truncated"),
        (_deep_png(), "more than 8 bits"),
    ],
)
def test_bad_pictures_are_named(tmp_path, content, message):
    folder = _folder(tmp_path)
    (folder / "dog" / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        _load(folder)
    assert str(folder / "dog" / "bad.png") in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="has no sub-folders"):
        _load(tmp_path)
    folder = _folder(tmp_path / "few", 1)
    with pytest.raises(ValueError, match="class cat has 1 image"):
        _load(folder)
    (tmp_path / "few" / "eel").mkdir()
    with pytest.raises(ValueError, match="eel has no pictures"):
        _load(folder)
    _folder(tmp_path / "split" / "train")
    _folder(tmp_path / "split" / "test", classes=("cat", "dog", "eel"))
    with pytest.raises(ValueError, match="there is no class eel in training"):
        _load(tmp_path / "split")
    for path in ("nowhere", "few/cat/0.png"):
        with pytest.raises(ValueError, match="must have class sub-folders of pict"):
            _load(tmp_path / path)
    with pytest.raises(ValueError, match="got None"):
        load_dataset("folder")
    with pytest.raises(ValueError, match="stream must be False"):
        _load(tmp_path, stream=True)
    with pytest.raises(ValueError, match="image_size must be None for 'digits'"):
        load_dataset("digits", image_size=8)


def _arrays(num=10, shape=(4, 5), **changes):
    images = np.arange(num, dtype=np.uint8).reshape(-1, 1, 1) + np.zeros(shape, "u1")
    return {"images": images, "labels": np.arange(num) % 2} | changes


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_of_arrays(tmp_path, save):
    path = tmp_path / "data.npz"
    save(path, **_arrays(class_names=np.array(["even", "odd"])))
    dataset = _load(path, "npz")
    assert dataset.class_names == ("even", "odd")
    assert dataset.image_shape == (4, 5, 1)
    assert len(dataset.test_labels) == 2
    for split in ("train", "test"):
        images = getattr(dataset, f"{split}_images")
        labels = getattr(dataset, f"{split}_labels")
        np.testing.assert_array_equal(images[:, 0, 0, 0] % 2, labels)


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    ],
)
def test_a_file_of_two_splits(tmp_path, names):
    path = tmp_path / "data.npz"
    arrays = [
        np.linspace(0, 1, 4 * 60).reshape(4, 4, 5, 3),
        np.array([[0], [1], [2], [1]]),
        np.ones((1, 4, 5, 3)),
        np.array([[2]], np.uint8),
    ]
    np.savez(path, **dict(zip(names, arrays, strict=True)), other=np.zeros(3))
    dataset = _load(path, "npz")
    assert dataset.train_images.dtype == np.float32
    np.testing.assert_allclose(dataset.train_images, arrays[0], rtol=1e-6)
    np.testing.assert_array_equal(dataset.train_labels, [0, 1, 2, 1])
    np.testing.assert_array_equal(dataset.test_labels, [2])
    assert dataset.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((10, 4), "u1")}, r"images must be \[n, H, W\].*\[10, 4\]"),
        ({"images": np.zeros((10, 4, 5), int)}, "images must be uint8, or float"),
        ({"images": np.full((10, 4, 5), 255.0)}, r"must be in \[0, 1\]"),
        ({"images": np.zeros((10, 0, 5), "u1")}, "without a zero"),
        ({"images": np.zeros((9, 4, 5), "u1")}, "10 labels, must have 9"),
        ({"images": np.array([{}] * 10)}, "images.npy holds Python objects"),
        ({"labels": np.array(["a"] * 10, object)}, r"labels.npy .*\.astype\(str\)"),
        ({"labels": np.arange(10) % 2 + 1}, "class 0 has 0 .* from 0 without gaps"),
        ({"labels": np.zeros(10)}, "the class 0 alone"),
        ({"labels": np.full(10, 0.5)}, "labels must be whole numbers .* got 0.5"),
        ({"labels": np.zeros(10, "M8[D]")}, "labels must be integers or strings"),
        ({"labels": np.eye(10) * 0.5}, "labels of shape .* must be one-hot"),
        ({"labels": np.arange(10) % 2 - 1}, "labels must count from 0, got -1"),
        ({"labels": np.arange(10)}, "class 0 has 1 image"),
        ({"labels": np.full(10, 2**40)}, "labels must count from 0"),
        ({"class_names": np.array(["one"])}, "class_names must be 2 strings"),
    ],
)
def test_bad_arrays_are_named(tmp_path, changes, message):
    path = tmp_path / "data.npz"
    np.savez(path, **_arrays(**changes))
    with pytest.raises(ValueError, match=message) as error:
        _load(path, "npz")
    assert str(path) in str(error.value) or "class" in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"PK but no archive")
    with pytest.raises(ValueError, match="data.npz cannot be read"):
        _load(path, "npz")
    np.savez(path, pictures=np.zeros(3))
    with pytest.raises(ValueError, match="has the arrays pictures; must have train_"):
        _load(path, "npz")
    arrays = _arrays()
    names = {"x_train": arrays["images"], "y_train": arrays["labels"]}
    np.savez(path, **names, x_test=arrays["images"])
    with pytest.raises(ValueError, match="has x_test alone"):
        _load(path, "npz")
    with pytest.raises(ValueError, match=r"must have an \.npz file"):
        _load(tmp_path, "npz")


def test_a_run_reads_the_folder_that_its_config_names(tmp_path):
    changes = {
        "dataset.name": "folder",
        "dataset.path": str(_folder(tmp_path, 20)),
        "dataset.image_size": 8,
    }
    dataset = setup.load(run_helpers.tiny_config(**changes))
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.class_names == ("cat", "dog")
