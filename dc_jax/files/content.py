"""Files: JSON, `.npz` that may come from anybody, and writing that is all or nothing.

Reading an `.npz` never unpickles, and takes no memory on the word of a header: arrays
must have exactly the bytes they announce, and lie in the file uncompressed, unless the
caller allows what fits into memory.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files.drafts import draft

# What readers raise on damaged files; ValueError includes our own.
DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file as `draft` does, and returns once it is on disk."""
    with draft(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, in this order, for `read_npz`; the same give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def write_json(path: str | os.PathLike, value: Mapping) -> None:
    """Writes a dict as indented JSON, in the order of the dict.

    Raises:
      UserError: a value is NaN or infinite, or of a type that JSON does not have.
    """
    write_atomically(path, to_json(value, os.path.basename(os.fspath(path))))


def to_json(value: Mapping, where: str) -> bytes:
    """Returns what `write_json` writes; for `where` see `to_plain`."""
    plain = to_plain(value, where)
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    # What is not Unicode, as in the name of a folder, becomes an escape of JSON.
    return (text + "\n").encode("utf-8", "backslashreplace")


def to_plain(value: Any, where: str) -> Any:
    """Returns `value` as JSON types; `where` names it in errors, as in "a.json/b".

    Raises:
      UserError: see `write_json`.
    """
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, f"{where}/{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, f"{where}/{i}") for i, v in enumerate(value)]
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # A number of NumPy or JAX.
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}, expected a finite number.")
    if value is not None and not isinstance(value, str | bool | int | float):
        kind = type(value).__name__
        raise UserError(f"{where} is a {kind}, expected a number, text, list, dict.")
    return value


def read_json(path: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the dict in a file, None where there is no file.

    Raises:
      UserError: it is damaged.
    """
    try:
        return _parse(Path(path).read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        problem = f"{path} is damaged ({one_line(error, 200)})"
        # Nobody is told to delete it: it may be another program's.
        hint = "put back a copy of it, or choose another folder"
        raise UserError(f"{problem}: {hint}.") from error


def read_json_lines(
    path: str | os.PathLike,
    find_fault: Callable[[dict[str, Any]], str | None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Returns the dicts in the lines of a file; none where there is no file.

    Damaged lines are left out, such as one that a killed run left half written, and
    those in which `find_fault` finds one. A warning tells how many there are.

    Raises:
      OSError: the file cannot be read.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    values, faults = [], []
    for line in lines:
        try:
            value = _parse(line)
            fault = find_fault(value)
        except (ValueError, RecursionError) as error:
            fault = one_line(error, 200)
        if fault:
            faults.append(fault)
        else:
            values.append(value)
    if faults:
        message = "%s: %d damaged line(s) are left out (%s)."
        logging.warning(message, path, len(faults), faults[0])
    return values


def append_json_line(path: str | os.PathLike, value: Mapping) -> None:
    """Adds a dict as a line to a file, which is made where needed.

    What a killed process left half written at the end stays a line of its own.
    """
    line = json.dumps(value).encode() + b"\n"
    with open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def _parse(data: bytes) -> dict[str, Any]:
    value = json.loads(data.decode("utf-8"))
    if not isinstance(value, dict):
        raise UserError("it is no dict")
    return value


def read_npz(
    path: str | os.PathLike,
    names: Iterable[str],
    optional: Iterable[str] = (),
    *,
    compressed: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the arrays of these names, and of the optional ones that are there.

    Arrays that may be `compressed` may take more memory than the file.

    Raises:
      UserError: an array is missing, compressed or of Python objects, or the file is
        damaged, no `.npz`, or cannot be read.
    """
    with _opened(path) as archive:
        held = set(archive.namelist())
        names = (*names, *(name for name in optional if f"{name}.npy" in held))
        return {n: _read_array(archive, f"{n}.npy", compressed) for n in names}


def names_of(path: str | os.PathLike) -> set[str]:
    """Returns the names of the arrays in an `.npz`; raises what `read_npz` does."""
    with _opened(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[zipfile.ZipFile]:
    """Opens an `.npz`; an error in reading it becomes a `UserError` with its path."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} cannot be read: it is no .npz, or damaged.") from error
    except (MemoryError, OSError) as error:
        # A place that the file cannot have is damage; other errors may pass.
        if getattr(error, "errno", None) != errno.EINVAL:
            raise OSError(
                f"{path} cannot be read now: {one_line(error, 200)}"
            ) from error
        raise UserError(f"{path} cannot be read: {one_line(error, 200)}") from error
    except (*DAMAGE, tokenize.TokenError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 200)}") from error


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
        if dtype.hasobject:
            raise UserError(
                f"{name} holds Python objects, which could run code: save strings as "
                "array.astype(str), numbers as array.astype(int)."
            )
        # Values of no bytes can be any number of values.
        if dtype.itemsize == 0 or num_bytes != info.file_size - file.tell():
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


def file_record(path: str | os.PathLike) -> dict:
    """Returns the size of a file in bytes and its SHA-256, as a card has them."""
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": os.path.getsize(path), "sha256": checksum}


def is_unicode(text: str) -> bool:
    """Whether a text is Unicode; a file name, as Python reads it, need not be."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
