"""Reads `.npz` files that may come from anybody.

No pickle, and no memory is taken on the word of a header: arrays must have exactly the
bytes they announce, and lie in the file uncompressed, as `numpy.savez` writes them,
unless the caller allows what fits into memory.
"""

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable

import numpy as np

from dc_jax.memory import check_fits

# What zipfile and NumPy raise on damaged files; ValueError includes our own.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    struct.error,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(
    path: str | os.PathLike,
    names: Iterable[str],
    optional: Iterable[str] = (),
    *,
    compressed: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the arrays of these names, and those of the optional ones there are.

    Args:
      path: the file.
      names: that must be there.
      optional: that may be.
      compressed: whether they may be compressed, and so take more than the file.

    Raises:
      ValueError: an array is missing, compressed or of Python objects, or the file is
        damaged or no `.npz` at all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            there = [name for name in optional if f"{name}.npy" in held]
            return {
                name: _read_array(archive, f"{name}.npy", compressed)
                for name in (*names, *there)
            }
    except zipfile.BadZipFile as error:
        reason = "it is no .npz, or damaged"
        raise ValueError(f"{path} cannot be read: {reason}.") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _read_array(archive: zipfile.ZipFile, name: str, compressed: bool) -> np.ndarray:
    if name not in archive.namelist():
        raise ValueError(f"it has no {name}.")
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED and not compressed:
        raise ValueError(f"{name} is compressed; write it with numpy.savez.")
    if not compressed and info.file_size > os.path.getsize(archive.filename):
        raise ValueError(f"{name} claims to be longer than the file.")
    # Others raise errors of their own; NumPy never writes them.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that NumPy does not know.")
    check_fits(info.file_size, f"the values of {name}")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADER_READERS:
            raise ValueError(f"{name} has .npy version {version}; expected 1.0 or 2.0.")
        shape, _, dtype = _HEADER_READERS[version](file)
        num_bytes = math.prod(shape) * dtype.itemsize
        # Values of no bytes can be any number of values.
        is_empty = dtype.itemsize == 0
        if dtype.hasobject or is_empty or num_bytes != info.file_size - file.tell():
            raise ValueError(f"{name} does not hold the {shape} {dtype} it announces.")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def is_text(array: np.ndarray) -> bool:
    """Whether an array is of strings that Python can have, and any file."""
    if array.dtype.type is not np.str_ or not array.dtype.isnative:
        return False
    # NumPy does not look at the code points; Python dies on those beyond Unicode.
    codes = np.frombuffer(array.tobytes(), np.uint32)
    return not np.any((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF)))


def names_of(path: str | os.PathLike) -> set[str]:
    """Returns the names of the arrays in a file.

    Raises:
      ValueError: it is no `.npz`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error
