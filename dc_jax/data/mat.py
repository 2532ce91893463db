"""Reads arrays of numbers from `.mat` files of MATLAB 5 to 7.

SciPy reads them too, but a damaged file can crash its process.
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import math
import zlib
from collections.abc import Iterator

import numpy as np

from dc_jax.errors import UserError, check_fits

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
# How numbers are stored, by the type of an element.
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
# The kinds of arrays that are no cells, structures, text or objects.
_CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
_COMPLEX = 0x800


def read_mat(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of real numbers in the content of a file, by name.

    They may be views of `data`. Others are left out.

    Raises:
      UserError: it is of another version, damaged, or larger than memory.
      LookupError, ValueError, zlib.error: it is damaged.
    """
    # MATLAB marks the order of the bytes.
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if data.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise UserError("it is of MATLAB 7.3; save it with '-v7'")
    if order is None:
        raise UserError("it does not begin as a .mat file of MATLAB 5 to 7")
    arrays = {}
    for kind, body in _elements(memoryview(data)[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, body = _inflate(body, order)
        if kind == _MATRIX:
            named = _read_matrix(body, order)
            arrays |= dict([named] if named else [])
    return arrays


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yields the type and the content of one element after another."""
    place = 0
    while place < len(data):
        kind, size = np.frombuffer(data[place : place + 8], f"{order}u4").tolist()
        if kind >> 16:
            # A small element, in one word with its type.
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise UserError("it has a small element of more than 4 bytes")
            begin, padded = place + 4, 4
        else:
            begin, padded = (
                place + 8,
                size if kind == _COMPRESSED else -(-size // 8) * 8,
            )
        if begin + size > len(data):
            raise UserError("it is shorter than it says")
        yield kind, data[begin : begin + size]
        place = begin + padded


def _inflate(body: memoryview, order: str) -> tuple[int, memoryview]:
    """Returns the type and the content of a compressed element."""
    tag = zlib.decompressobj().decompress(body, 8)
    kind, size = np.frombuffer(tag, f"{order}u4").tolist()
    check_fits(8 + size, "its values")
    data = zlib.decompressobj().decompress(body, 8 + size)
    if len(data) != 8 + size:
        raise UserError("it is shorter than it says")
    return kind, memoryview(data)[8:]


def _read_matrix(body: memoryview, order: str) -> tuple[str, np.ndarray] | None:
    """Returns the name and the array; None if it is not of real numbers."""
    parts = _elements(body, order)
    flags, shape, name = (next(parts, (0, memoryview(b"")))[1] for _ in range(3))
    flag = int(np.frombuffer(flags, f"{order}u4")[0])
    if flag & 0xFF not in _CLASSES or flag & _COMPLEX:
        return None
    shape = np.frombuffer(shape, f"{order}i4").tolist()
    kind, values = next(parts, (0, memoryview(b"")))
    if kind not in _TYPES or min(shape, default=-1) < 0:
        raise UserError("it has an array without a shape or values")
    array = np.frombuffer(values, order + _TYPES[kind])
    if math.prod(shape) != array.size:
        raise UserError(f"it has an array of {shape} with {array.size} values")
    # MATLAB may store numbers in fewer bytes than they have.
    array = array.astype(_CLASSES[flag & 0xFF], copy=False).reshape(shape, order="F")
    return bytes(name).decode("latin-1"), array
