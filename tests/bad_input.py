"""What the tests of bad input share: how a command may end, and damage to bytes."""

import os
import pickle
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from dc_jax.errors import ERRORS, one_line

# Of one case. Nothing is compiled.
_SECONDS = 10


def cases(number: int) -> hypothesis.settings:
    """So many cases of a property, always the same ones.

    With `BAD_INPUT_TIMES=10` in the environment ten times as many, and always others.
    """
    times = int(os.environ.get("BAD_INPUT_TIMES", 1))
    return hypothesis.settings(
        max_examples=times * number,
        derandomize=times == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def ends_well(
    call: Callable[[], Any], *names: str | Path, folder: Path | None = None
) -> Any:
    """Returns what the call does, None if it ends in what a command says in one line.

    Args:
      call: what a command does with its input.
      *names: of the fields and files of which the line must have one.
      folder: in which such an end may leave nothing behind.
    """
    before = _listing(folder)
    began = time.monotonic()
    result, said = None, None
    try:
        with warnings.catch_warnings():
            # Under pytest they would be errors, which a command does not have.
            warnings.simplefilter("ignore")
            result = call()
    except ERRORS as error:
        said = error
    assert time.monotonic() - began < _SECONDS
    if said is not None:
        line = one_line(said)
        # But of names of files, which a command joins.
        assert "\n" not in str(said) or any("\n" in path for path in before)
        assert any(str(name) in line for name in names), (line, names)
        assert _listing(folder) == before
    return result


def _listing(folder: Path | None) -> dict[str, bytes]:
    """What is below a folder, but for the file that locks it."""
    paths = sorted(folder.rglob("*")) if folder else []
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in paths
        if path.name != ".lock"
    }


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    """The file of an array, with any header."""
    text = header.encode("latin1", "replace") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


class _Touch:
    """Pickled, a command that makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def npy_of_code(path: Path) -> bytes:
    """An array of objects as long as it says; what makes one of them makes a file."""
    data = pickle.dumps(_Touch(path))
    data += bytes(-len(data) % 8)
    header = {"descr": "|O", "fortran_order": False, "shape": (len(data) // 8,)}
    return npy(repr(header), data)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes flipped, zeroed, cut off, put in or taken out; or other ones."""
    kind = draw(
        st.sampled_from(["flip", "cut", "zero", "fill", "insert", "remove", "other"])
    )
    place = draw(st.integers(0, max(len(whole) - 1, 0)))
    size = draw(st.integers(1, 40))
    if kind == "flip":
        data = bytearray(whole)
        for at in draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)) + [place]:
            data[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)
    middle = {
        "zero": bytes(size),
        "fill": b"\xff" * size,
        "insert": draw(st.binary(min_size=1, max_size=40)) if kind == "insert" else b"",
    }
    if kind == "cut":
        return whole[:place]
    if kind == "other":
        return draw(st.binary(max_size=200))
    end = place if kind == "insert" else place + size
    return whole[:place] + middle.get(kind, b"") + whole[end:]
