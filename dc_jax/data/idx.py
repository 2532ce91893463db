"""Reads the four IDX files in which MNIST and its relatives are distributed.

The format: two zero bytes, a type code, the number of dimensions, each dimension as a
big-endian 32-bit integer, then the values
(http://yann.lecun.com/exdb/mnist/, "The IDX file format").
"""

import gzip
import math
import mmap
import struct
import zlib
from pathlib import Path

import numpy as np

from dc_jax.errors import UserError, check_fits

_UINT8_CODE = 0x08
_STEMS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def has_idx_files(folder: Path) -> bool:
    """Whether `folder` has any of the four files, plain or gzipped."""
    return any(_find(folder, stem) is not None for stem in _STEMS.values())


def read_idx_folder(folder: Path) -> dict[str, np.ndarray]:
    """Reads the training and test split from the four files in `folder`.

    A plain file is preferred to its gzipped twin.

    Args:
      folder: holds `train-images-idx3-ubyte` and so on, each plain or as `.gz`.

    Returns:
      `train_images`, `test_images` of shape `[n, H, W, 1]` uint8; `train_labels`,
      `test_labels` of shape `[n]` int32.

    Raises:
      FileNotFoundError: one of the four files is missing.
      UserError: a file is damaged, or images and labels differ in number.
    """
    paths = {name: _find(folder, stem) for name, stem in _STEMS.items()}
    for name, path in paths.items():
        if path is None:
            raise FileNotFoundError(
                f"{folder / _STEMS[name]} is missing (plain or .gz) while other IDX "
                "files are there."
            )
    arrays = {}
    for split in ("train", "test"):
        image_path, label_path = paths[f"{split}_images"], paths[f"{split}_labels"]
        images = read_idx(image_path, num_dims=3)
        labels = read_idx(label_path, num_dims=1)
        if len(images) != len(labels):
            raise UserError(
                f"{label_path} has {len(labels)} labels, must have {len(images)} as "
                f"{image_path.name} has images."
            )
        arrays[f"{split}_images"] = images[..., np.newaxis]
        arrays[f"{split}_labels"] = labels.astype(np.int32)
    return arrays


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Reads one IDX file of unsigned bytes.

    Args:
      path: the file; gzipped if its name ends in `.gz`.
      num_dims: how many dimensions the file must have.

    Returns:
      Read-only uint8 array with the dimensions in the file's header.

    Raises:
      UserError: the magic number is not that of `num_dims` dimensions of unsigned
        bytes, or the file is shorter or longer than its header says.
    """
    if path.suffix != ".gz":
        return _parse(_map_bytes(path), path, num_dims)
    try:
        with gzip.open(path) as file:
            header = file.read(_header_size(num_dims))
            size = math.prod(_parse_header(header, path, num_dims))
            check_fits(size, f"the bytes of {path}")
            # One byte too many shows that the file is too long; the rest is not read.
            return _parse(header + file.read(size + 1), path, num_dims)
    # Raised for a wrong header, a truncated and a damaged stream.
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a sound gzip file: {error}.") from error


def _parse(data: bytes | mmap.mmap, path: Path, num_dims: int) -> np.ndarray:
    header_size = _header_size(num_dims)
    shape = _parse_header(data[:header_size], path, num_dims)
    size = header_size + math.prod(shape)
    if len(data) != size:
        raise UserError(
            f"{path} is damaged: {len(data)} bytes, must be {size} for the shape "
            f"{list(shape)} in its header."
        )
    return np.frombuffer(data, np.uint8, offset=header_size).reshape(shape)


def _header_size(num_dims: int) -> int:
    return 4 + 4 * num_dims


def _parse_header(header: bytes, path: Path, num_dims: int) -> tuple[int, ...]:
    """Returns the shape."""
    magic = bytes([0, 0, _UINT8_CODE, num_dims])
    if header[:4] != magic:
        raise UserError(
            f"{path} is not the IDX file expected: it starts with "
            f"0x{header[:4].hex() or '(nothing)'}, must be 0x{magic.hex()}."
        )
    if len(header) < _header_size(num_dims):
        raise UserError(
            f"{path} is truncated: {len(header)} bytes, its header alone needs "
            f"{_header_size(num_dims)}."
        )
    return struct.unpack(f">{num_dims}I", header[4:])


def _find(folder: Path, stem: str) -> Path | None:
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _map_bytes(path: Path) -> bytes | mmap.mmap:
    """Maps a file, so that only the parts that are used are read."""
    with path.open("rb") as file:
        # An empty file cannot be mapped.
        size = path.stat().st_size
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
