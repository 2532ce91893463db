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

# Which the folders that torchvision makes are called by.
_OF_TORCHVISION = ("mnist", "fashionmnist", "kmnist")


def find_idx_files(folder: Path, name: str = "") -> Path | None:
    """Returns the folder that has any of the four files, plain or gzipped.

    It is `folder`, or one inside, as torchvision makes `MNIST/raw`: that which is
    called as the dataset, `name`, where there are several.

    Raises:
      UserError: there are several, and none is called so.
    """
    for place in (folder, folder / "raw"):
        if _has_files(place):
            return place
    places = list(filter(_has_files, sorted(folder.glob("*/raw"))))
    wanted = name.replace("_", "")
    named = [place for place in places if place.parent.name.lower() == wanted]
    if wanted in _OF_TORCHVISION:
        places = named
    if len(places) > 1 and not named:
        told = " and ".join(map(str, places))
        raise UserError(f"IDX files are in {told}: give one as config.dataset.path.")
    return next(iter(named or places), None)


def read_idx_folder(folder: Path) -> dict[str, np.ndarray]:
    """Reads both splits from the four files; a plain one is preferred to its `.gz`.

    Returns:
      `train_images`, `test_images` of shape `[n, H, W, 1]` uint8; `train_labels`,
      `test_labels` of shape `[n]` int32.

    Raises:
      FileNotFoundError: one of the four files is missing.
      UserError: a file is damaged.
    """
    paths = {name: _find(folder, stem) for name, stem in _STEMS.items()}
    for name, path in paths.items():
        if path is None:
            problem = "is missing (plain or .gz) while other IDX files are there"
            raise FileNotFoundError(f"{folder / _STEMS[name]} {problem}.")
    arrays = {}
    for split in ("train", "test"):
        images = _read(paths[f"{split}_images"], num_dims=3)
        labels = _read(paths[f"{split}_labels"], num_dims=1)
        arrays[f"{split}_images"] = images[..., np.newaxis]
        arrays[f"{split}_labels"] = labels.astype(np.int32)
    return arrays


def _has_files(folder: Path) -> bool:
    return any(_find(folder, stem) is not None for stem in _STEMS.values())


def _find(folder: Path, stem: str) -> Path | None:
    # Some copies have a dot, or a folder around each file.
    dotted = stem.replace("-idx", ".idx")
    names = (stem, f"{stem}.gz", dotted, f"{dotted}.gz")
    candidates = [folder / name for name in (*names, f"{stem}/{stem}")]
    return next((path for path in candidates if path.is_file()), None)


def _read(path: Path, num_dims: int) -> np.ndarray:
    """Reads one file of unsigned bytes with `num_dims` dimensions; read-only.

    A plain file is mapped, so that only the parts that are used are read.
    """
    header_size = 4 + 4 * num_dims
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                header = file.read(header_size)
                size = math.prod(_parse_header(header, path, num_dims))
                check_fits(size, f"the bytes of {path}")
                # One byte too many shows that the file is too long.
                data = header + file.read(size + 1)
        else:
            with path.open("rb") as file:
                size, access = path.stat().st_size, mmap.ACCESS_READ
                # An empty file cannot be mapped.
                data = mmap.mmap(file.fileno(), 0, access=access) if size else b""
    # Raised for a wrong header, a truncated and a damaged stream.
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a sound gzip file: {error}.") from error
    shape = _parse_header(data[:header_size], path, num_dims)
    size = header_size + math.prod(shape)
    if len(data) != size:
        raise UserError(
            f"{path} is damaged: {len(data)} bytes, must be {size} for the shape "
            f"{list(shape)} in its header."
        )
    return np.frombuffer(data, np.uint8, offset=header_size).reshape(shape)


def _parse_header(header: bytes, path: Path, num_dims: int) -> tuple[int, ...]:
    """Returns the shape."""
    magic = bytes([0, 0, _UINT8_CODE, num_dims])
    if header[:4] != magic:
        raise UserError(
            f"{path} is not the IDX file expected: it starts with "
            f"0x{header[:4].hex() or '(nothing)'}, must be 0x{magic.hex()}."
        )
    size = 4 + 4 * num_dims
    if len(header) < size:
        raise UserError(
            f"{path} is truncated: {len(header)} bytes, its header alone needs {size}."
        )
    return struct.unpack(f">{num_dims}I", header[4:])
