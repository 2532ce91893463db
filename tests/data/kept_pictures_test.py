"""Decoded pictures are kept, found again, and made again where they are damaged."""

import os
import shutil

import numpy as np
import pytest
from data_helpers import random_pixels
from PIL import Image

from dc_jax.data import decode, kept_pictures
from dc_jax.data.sources import load_dataset
from dc_jax.files.cache import cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("DC_JAX_CACHE", str(folder))
    return folder / "pictures"


@pytest.fixture
def photos(tmp_path):
    """Two classes of seven pictures."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(7):
            pixels = random_pixels(10 * label + i, 6, 5, 3)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch):
    """How many pictures were decoded."""
    names, read = [], decode._read_pixels

    def read_and_note(picture, *args):
        names.append(picture.name)
        return read(picture, *args)

    monkeypatch.setattr(decode, "_read_pixels", read_and_note)
    return names


def test_a_second_time_nothing_is_decoded(photos, decoded, cache):
    first = load_dataset("folder", str(photos))
    assert len(decoded) == 14
    again = load_dataset("folder", str(photos))
    assert len(decoded) == 14
    assert again.checksum() == first.checksum()
    assert again.source == first.source
    (entry,) = cache.iterdir()
    assert sorted(path.name for path in entry.iterdir()) == ["about.json", "train.npy"]


@pytest.mark.parametrize("change", ["pixels", "time", "more", "size", "class"])
def test_changed_files_are_decoded_again(photos, decoded, change):
    load_dataset("folder", str(photos))
    decoded.clear()
    path, kwargs = photos / "cat" / "3.png", {}
    status = path.stat()
    if change == "pixels":
        Image.fromarray(random_pixels(99, 6, 5, 3)).save(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    elif change == "more":
        shutil.copy(path, photos / "dog" / "7.png")
    elif change == "size":
        kwargs = {"image_size": 4}
    else:
        (photos / "cat").rename(photos / "bird")
    load_dataset("folder", str(photos), **kwargs)
    assert len(decoded) == 14 + (change == "more")


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "about", "missing"])
def test_a_damaged_entry_is_made_again(photos, decoded, cache, damage):
    first = load_dataset("folder", str(photos))
    (entry,) = cache.iterdir()
    path = entry / "train.npy"
    if damage == "flipped":
        data = bytearray(path.read_bytes())
        data[-7] ^= 1
        path.write_bytes(data)
    elif damage == "short":
        os.truncate(path, path.stat().st_size - 1)
    elif damage == "empty":
        os.truncate(path, 0)
    elif damage == "about":
        (entry / "about.json").write_text("[]")
    else:
        path.unlink()
    for _ in range(2):
        assert load_dataset("folder", str(photos)).checksum() == first.checksum()
    assert len(decoded) == 2 * 14


def test_two_processes_at_once_keep_one_entry(photos, cache, monkeypatch):
    keep = kept_pictures.keep

    def keep_twice(*args):
        keep(*args)
        keep(*args)

    monkeypatch.setattr(kept_pictures, "keep", keep_twice)
    load_dataset("folder", str(photos))
    assert len(list(cache.iterdir())) == 1


def test_the_cache_does_not_grow_for_ever(cache, monkeypatch):
    monkeypatch.setattr(kept_pictures, "_MOST", 3000)
    images = {"train": np.zeros((1, 30, 30, 1), np.uint8)}
    for time, key in enumerate(("a", "b")):
        kept_pictures.keep(key, images, "a test")
        os.utime(cache / key, (time, time))
    assert kept_pictures.load("a") is not None  # Used last, from now on.
    kept_pictures.keep("c", images, "a test")
    assert sorted(path.name for path in cache.iterdir()) == ["a", "c"]
    # No room at all.
    images = {"train": np.zeros((4, 30, 30, 1), np.uint8)}
    kept_pictures.keep("d", images, "a test")
    assert kept_pictures.load("d") is None


@pytest.mark.parametrize("place", ["off", "file"])
def test_without_a_cache_pictures_are_decoded(photos, decoded, tmp_path, place, caplog):
    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DC_JAX_CACHE", "off" if place == "off" else f"{tmp_path}/file")
        sums = {load_dataset("folder", str(photos)).checksum() for _ in range(2)}
    assert len(sums) == 1
    assert len(decoded) == 2 * 14
    assert not (tmp_path / "cache").exists()


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("DC_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dc_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dc_jax"
    monkeypatch.setenv("DC_JAX_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("DC_JAX_CACHE", "off")
    assert cache_folder() is None
