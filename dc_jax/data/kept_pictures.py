"""Keeps decoded pictures in the user's cache, so that they are decoded once.

An entry is a folder with an array for each split. Its name is a hash of the names,
sizes and times of the files, or of their contents where they are no files, and of all
else that the pixels depend on. An entry appears at once, and is never changed.
"""

import contextlib
import hashlib
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
from absl import logging

from dc_jax.errors import one_line
from dc_jax.files.cache import cache_folder
from dc_jax.files.content import DAMAGE, read_json, write_json
from dc_jax.files.drafts import draft, remove_stale

# To be increased when the same pictures are decoded to other pixels.
_VERSION = 1
# The bytes of all entries; the least recently used go first. And how much room on the
# disk is left to others.
_MOST, _LEFT = 20 * 2**30, 2 * 2**30
_CHUNK = 2**24


class Encoded(Protocol):
    """A picture that is not decoded yet, see `decode.Encoded`."""

    name: str
    label: int
    content: Path | bytes


def find_key(
    splits: Mapping[str, Sequence[Encoded]], image_size: int | None
) -> str | None:
    """Returns the name of the entry of pictures; None: a file is not there."""
    digest = hashlib.sha256(f"{_VERSION} {PIL.__version__} {image_size}".encode())
    for split, pictures in splits.items():
        digest.update(f"\n{split}\n".encode())
        for one in pictures:
            if isinstance(one.content, bytes):
                facts = hashlib.sha256(one.content).hexdigest()
            else:
                try:
                    status = os.stat(one.content)
                except OSError:
                    return None
                path = os.path.abspath(one.content)
                times = (status.st_mtime_ns, status.st_ctime_ns)
                facts = (path, status.st_size, times)
            digest.update(f"{one.name!r} {one.label} {facts!r}\n".encode())
    return digest.hexdigest()


def load(key: str) -> dict[str, np.ndarray] | None:
    """Returns the images of each split, mapped from files; None: there is no entry.

    A damaged entry is removed.
    """
    folder = _folder()
    if folder is None or not (folder / key).is_dir():
        return None
    entry = folder / key
    try:
        about = read_json(entry / "about.json")
        images = {}
        for split, checksum in about["checksums"].items():
            images[split] = np.load(entry / f"{split}.npy", mmap_mode="r")
            if _checksum(images[split]) != checksum:
                raise ValueError(f"{split}.npy has changed")
        os.utime(entry)
        return images
    except DAMAGE as error:
        logging.info("%s is damaged (%s); removed.", entry, one_line(error, 100))
        shutil.rmtree(entry, ignore_errors=True)
        return None


def keep(key: str, images: Mapping[str, np.ndarray], where: str) -> None:
    """Keeps the images of each split, if there is room. `where` tells whose they are"""
    folder = _folder()
    if folder is None:
        return
    size = sum(array.nbytes for array in images.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder, lambda name: False)
        _make_room(folder, size)
        if size > min(_MOST, shutil.disk_usage(folder).free - _LEFT):
            logging.info("The decoded pictures are not kept: no room in %s.", folder)
            return
        with draft(folder / key) as entry:
            os.mkdir(entry)
            for split, array in images.items():
                np.save(os.path.join(entry, f"{split}.npy"), array)
            checksums = {split: _checksum(array) for split, array in images.items()}
            about = {"pictures": where, "checksums": checksums}
            write_json(os.path.join(entry, "about.json"), about)
        logging.info("The decoded pictures are kept in %s.", folder / key)
    except OSError as error:
        # Another process may have been faster.
        if not (folder / key).is_dir():
            text = "The decoded pictures are not kept: %s"
            logging.warning(text, one_line(error))


def _folder() -> Path | None:
    caches = cache_folder()
    return None if caches is None else caches / "pictures"


def _make_room(folder: Path, size: int) -> None:
    """Removes the entries that were not used for longest, to make room for a new."""
    entries = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            bytes_of = sum(file.stat().st_size for file in path.iterdir())
            entries.append((path.stat().st_mtime, bytes_of, path))
    held = sum(bytes_of for _, bytes_of, _ in entries)
    for _, bytes_of, path in sorted(entries):
        if held + size <= _MOST:
            break
        shutil.rmtree(path, ignore_errors=True)
        held -= bytes_of


def _checksum(images: np.ndarray) -> int:
    """Returns the CRC-32 of images, which notices damage, not malice."""
    checksum = zlib.crc32(f"{images.dtype}{images.shape}".encode())
    step = max(1, _CHUNK // max(images[:1].nbytes, 1))
    for start in range(0, len(images), step):
        checksum = zlib.crc32(images[start : start + step], checksum)
    return checksum
