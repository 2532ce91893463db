"""Reads `.npz` files that may come from anybody.

No pickle, and no memory is taken on the word of a header: arrays must have exactly the
bytes they announce, and lie in the file uncompressed, as `numpy.savez` writes them,
unless the caller allows what fits into memory.
"""

import hashlib
import json
import math
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dc_jax.errors import UserError, check_fits

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
      UserError: an array is missing, compressed or of Python objects, or the file is
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
        raise UserError(f"{path} cannot be read: {reason}.") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}") from error


def _read_array(archive: zipfile.ZipFile, name: str, compressed: bool) -> np.ndarray:
    if name not in archive.namelist():
        raise UserError(f"it has no {name}.")
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED and not compressed:
        raise UserError(f"{name} is compressed; write it with numpy.savez.")
    if not compressed and info.file_size > os.path.getsize(archive.filename):
        raise UserError(f"{name} claims to be longer than the file.")
    # Others raise errors of their own; NumPy never writes them.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{name} is compressed in a way that NumPy does not know.")
    check_fits(info.file_size, f"the values of {name}")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADER_READERS:
            raise UserError(f"{name} has .npy version {version}; expected 1.0 or 2.0.")
        shape, _, dtype = _HEADER_READERS[version](file)
        num_bytes = math.prod(shape) * dtype.itemsize
        # Values of no bytes can be any number of values.
        is_empty = dtype.itemsize == 0
        if dtype.hasobject or is_empty or num_bytes != info.file_size - file.tell():
            raise UserError(f"{name} does not hold the {shape} {dtype} it announces.")
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
      UserError: it is no `.npz`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}") from error


def is_unicode(text: str) -> bool:
    """Whether a text is Unicode; what Python makes of a file name need not be."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_address(path: str) -> bool:
    """Whether a path is one such as `gs://bucket/folder`."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", path) is not None


def check_is_local(flag: str, path: str) -> None:
    """Checks that a path is no address.

    Raises:
      UserError: it is.
    """
    if is_address(path):
        raise UserError(
            f"{flag} must be a folder of this machine, got {path}; a bucket can be "
            "mounted as one."
        )


def write_json(path: str | os.PathLike, value: Mapping) -> None:
    """Writes a dict as indented JSON, in the order of the dict.

    Raises:
      UserError: a value is NaN or infinite, or is nothing that JSON has.
    """
    plain = to_plain(value, os.path.basename(os.fspath(path)))
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    # What is not Unicode, as in the name of a folder, becomes an escape of JSON.
    write_atomically(path, (text + "\n").encode("utf-8", "backslashreplace"))


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file so that nobody ever sees a part of it; makes its folder."""
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Not `tempfile`, whose files nobody else may read.
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = path  # A full disk does not name it.
        raise
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def to_plain(value: Any, where: str) -> Any:
    """Returns `value` as JSON types; `where` names it in errors, as in "a.json/b"."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, f"{where}/{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, f"{where}/{i}") for i, v in enumerate(value)]
    if isinstance(value, np.generic | jax.Array) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}, expected a finite number.")
    if value is not None and not isinstance(value, str | bool | int | float):
        raise UserError(
            f"{where} is a {type(value).__name__}, expected a number, text, list, dict."
        )
    return value


def file_record(path: str | os.PathLike) -> dict:
    """Returns what a card says of a file: its size in bytes and its checksum."""
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": os.path.getsize(path), "sha256": checksum}


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the dict in a file of a run, None where there is no file.

    Raises:
      UserError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, dict):
            raise UserError("it is no dict")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, or choose another folder."
        ) from error
    return value
