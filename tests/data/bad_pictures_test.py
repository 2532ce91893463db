"""Any folder of pictures is read, or the file, class or field is named in one line."""

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import bad_input
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from dc_jax.data.sources import load_dataset

PIXELS = (np.arange(60).reshape(4, 5, 3) * 4).astype(np.uint8)
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"]


def _encode(kind, mode="RGB", size=(5, 4), **kwargs):
    file = io.BytesIO()
    picture = Image.fromarray(PIXELS).resize(size)
    picture = picture.convert("L").convert(mode) if mode[0] in "IF" else picture
    picture.convert(mode).save(file, kind, **kwargs)
    return file.getvalue()


def _exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    return exif


PNG = _encode("png")
WHOLE = {
    "png": _encode("png", exif=_exif()),
    "jpg": _encode("jpeg", exif=_exif()),
    "gif": _encode("gif", "P", save_all=True, append_images=[Image.new("P", (5, 4))]),
    "bmp": _encode("bmp"),
    "webp": _encode("webp", exif=_exif()),
    "tiff": _encode("tiff", compression="tiff_lzw"),
    "tif": _encode("tiff", exif=_exif()),
    "ppm": _encode("ppm"),
    "pgm": _encode("ppm", "L"),
}


def _png(width, height, kind=2, deep=8, data=b"", check=0):
    """A PNG of any header, with any data and wrong checksums."""

    def chunk(name, content):
        crc = struct.pack(">I", (zlib.crc32(name + content) + check) % 2**32)
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">2I5B", width, height, deep, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _write(folder, files):
    """Two classes of two pictures, and these."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(exist_ok=True)
        for i in range(2):
            (folder / name / f"{i}.png").write_bytes(PNG)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)


def _load(folder, *names, **kwargs):
    dataset = bad_input.ends_well(
        lambda: load_dataset("folder", str(folder), **kwargs),
        *(names or [folder]),
        folder=folder,
    )
    if dataset is not None:
        assert dataset.train_images.dtype == np.uint8
        assert len(dataset.checksum()) == 64
    return dataset


SIZES = st.sampled_from([None, None, 3, 32])


@bad_input.cases(60)
@given(st.sampled_from(sorted(WHOLE)), SIZES, st.data())
def test_damaged_pictures(suffix, size, data):
    content = data.draw(bad_input.damaged(WHOLE[suffix]))
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), {f"dog/bad.{suffix}": content})
        _load(Path(folder), image_size=size)


@bad_input.cases(30)
@given(
    *(st.sampled_from([0, 1, 4, 5, 9000, 60000, 2**31 - 1, 2**32 - 1]),) * 2,
    st.integers(0, 7),
    st.sampled_from([1, 2, 8, 16, 32]),
    st.sampled_from([b"", bytes(64), PNG]),
    st.sampled_from([0, 0, 1]),
    SIZES,
)
@example(60000, 60000, 2, 8, b"", 0, None)
def test_any_header(width, height, kind, deep, data, check, size):
    """Decompression bombs, sizes of 0, other modes than there are, wrong CRCs."""
    content = _png(width, height, kind, deep, zlib.compress(data), check)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), {"dog/bad.png": content})
        _load(Path(folder), image_size=size)


@bad_input.cases(20)
@given(
    st.sampled_from(MODES),
    st.sampled_from(["png", "jpeg", "gif", "tiff", "webp", "bmp"]),
    st.sampled_from([(5, 4), (1, 1), (300, 1)]),
    SIZES,
)
def test_modes(mode, kind, shape, size):
    try:
        content = _encode(kind, mode, shape)
    except (OSError, ValueError):  # Pillow has no such file.
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), {f"dog/other.{kind}": content})
        is_deep = mode[0] in "IF" and kind in ("png", "tiff")
        assert (_load(Path(folder), image_size=size) is None) == is_deep


# Everything but "/" and NUL; surrogates are bytes that are no UTF-8.
LETTERS = st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="/")
CLASSES = st.one_of(
    st.text(LETTERS, min_size=1, max_size=9).filter(lambda name: name.strip(".")),
    st.sampled_from(["..x", "~", "a\nb", "\x1b[2J", "train", "test", "x" * 250, "-"]),
    st.binary(min_size=1, max_size=4)
    .filter(lambda name: not {0, 47} & set(name) and name.strip(b"."))
    .map(os.fsdecode),
)


@bad_input.cases(30)
@given(st.lists(CLASSES, max_size=3), st.integers(0, 3))
def test_names_of_classes(names, num):
    with tempfile.TemporaryDirectory() as folder:
        _write(
            Path(folder),
            {f"{name}/{i}.png": PNG for name in names for i in range(num)},
        )
        dataset = _load(Path(folder))
        if dataset is not None:
            assert set(dataset.class_names) - {"cat", "dog"} <= set(names)
            "".join(dataset.class_names).encode()


def _link_loop(folder):
    (folder / "dog" / "loop").symlink_to(folder)
    (folder / "dog" / "self.png").symlink_to(folder / "dog" / "self.png")


def _link_outside(folder):
    (folder / "dog" / "out.png").symlink_to("/etc/passwd")


def _hide(folder):
    (folder / "dog" / ".hidden").mkdir()
    (folder / "dog" / ".hidden" / "x.png").write_bytes(b"not read")
    (folder / "dog" / ".x.png").write_bytes(b"not read")


CASES = {
    "loop": (_link_loop, True),
    "outside": (_link_outside, False),
    "broken": (lambda f: (f / "dog" / "x.png").symlink_to("nowhere"), True),
    "class is a link": (lambda f: (f / "eel").symlink_to(f / "dog"), True),
    "class is a file": (lambda f: (f / "eel").write_bytes(b""), True),
    "pipe": (lambda f: os.mkfifo(f / "dog" / "x.png"), True),
    "hidden": (_hide, True),
    "empty class": (lambda f: (f / "eel").mkdir(), False),
    "text": (lambda f: (f / "dog" / "x.png").write_text("hello"), False),
    "no picture": (lambda f: (f / "dog" / "x.txt").write_text("hello"), True),
}


@pytest.mark.parametrize("case", CASES)
def test_what_may_be_in_a_folder(tmp_path, case):
    change, is_read = CASES[case]
    _write(tmp_path, {})
    change(tmp_path)
    assert (_load(tmp_path) is not None) == is_read


def test_one_image_and_one_class(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(PNG)
    assert _load(tmp_path) is None
    (tmp_path / "train").mkdir()
    (tmp_path / "cat").rename(tmp_path / "train" / "cat")
    assert _load(tmp_path) is None


def test_an_image_size_beyond_memory(tmp_path):
    _write(tmp_path, {})
    assert _load(tmp_path, "config.dataset.image_size", image_size=2**31 - 1) is None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("folder", "~nobody_here/x"),
        ("npz", "\0"),
        ("mnist", "x" * 5000),
        ("npz", ""),
        ("folder", "/dev/null"),
        ("npz", "/proc/self/mem"),
    ],
)
def test_paths(name, path):
    bad_input.ends_well(
        lambda: load_dataset(name, path), "dataset.path", *([path] if path else [])
    )
