"""Reads images as rows of CSV, as of MNIST: a label, then the grey levels.

With a header or without; files may be gzipped. In Kaggle's and other copies the label
comes first, or is the column called `label` or `class`.
"""

import contextlib
import gzip
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from dc_jax.data.labels import read_labels
from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files import DAMAGE

_SUFFIXES = (".csv", ".csv.gz")
_LABELS = ("label", "labels", "class", "target")
# Of the first line, of which any text of one line would be taken otherwise.
_LONGEST = 2**24
# So few columns are no image.
_FEW = 4


def find_csv_files(place: Path) -> dict[str, Path]:
    """Returns the file of "train" and that of "test", where there is one.

    `place` is a file, or a folder with files whose names have `train` and `test`, or
    with a single one.

    Raises:
      UserError: several files could be that of a split.
    """
    if place.is_file():
        return {"train": place} if place.name.lower().endswith(_SUFFIXES) else {}
    if not place.is_dir():
        return {}
    paths = [p for p in sorted(place.iterdir()) if not p.name.startswith(".")]
    paths = [p for p in paths if p.name.lower().endswith(_SUFFIXES) and p.is_file()]
    if len(paths) == 1:
        return {"train": paths[0]}
    files = {}
    for split in ("train", "test"):
        found = [path for path in paths if split in path.name.lower()]
        if len(found) > 1:
            told = ", ".join(path.name for path in found)
            raise UserError(f"{place} has {told}: give one as config.dataset.path.")
        if found:
            files[split] = found[0]
    return files if "train" in files else {}


def has_csv(place: Path) -> bool:
    """Whether there is a file of `find_csv_files` whose rows can be images."""
    files = find_csv_files(place)
    try:
        return bool(files) and len(_read_first(files["train"])) > _FEW
    except (*DAMAGE, zlib.error):
        return True  # Reading it tells what is wrong.


def read_csv(place: Path) -> dict[str, np.ndarray]:
    """Reads all images of the files of `find_csv_files` into memory.

    A test file without labels is not used.

    Returns:
      `train_images`, `[n, H, W, 1]` uint8, and `train_labels`, `[n]` int32; with a test
      file `test_...` too.

    Raises:
      UserError: a file is damaged, or holds something else.
    """
    arrays, num_columns = {}, 0
    for split, path in find_csv_files(place).items():
        with _naming(path):
            table, label = _read_table(path)
            if split == "test" and table.shape[1] == num_columns - 1:
                logging.info("%s has no labels; it is not used.", path)
                continue
            num_columns = table.shape[1]
            side = math.isqrt(num_columns - 1)
            if side**2 != num_columns - 1 or side < 2:
                raise UserError(
                    f"it has {num_columns} columns, must have a label and the pixels "
                    "of a square grey image, such as 785 for 28x28"
                )
            pixels = np.delete(table, label, axis=1)
            arrays[f"{split}_images"] = _to_uint8(pixels).reshape(-1, side, side, 1)
            arrays[f"{split}_labels"], _ = read_labels(table[:, label], "its labels")
    return arrays


def _read_table(path: Path) -> tuple[np.ndarray, int]:
    """Returns all values, `[n, columns]`, and which column is the label."""
    first = _read_first(path)
    names = [name.strip().strip("\"'").lower() for name in first]
    label = next((i for i, name in enumerate(names) if name in _LABELS), 0)
    are_words = [not _is_number(name) for name in names]
    has_header = are_words[label] or 2 * sum(are_words) > len(names)
    if len(first) <= _FEW:
        raise UserError(
            f"it begins with {','.join(first)[:80]!r}, must have a label and the "
            "pixels of an image in a row"
        )
    _check_size(path)
    try:
        return _load(path, np.uint8, has_header), label
    except ValueError:
        # Whole numbers may be written as 3.0.
        return _load(path, np.float32, has_header), label


def _load(path: Path, dtype: type, has_header: bool) -> np.ndarray:
    with _opened(path) as file:
        return np.loadtxt(
            file,
            dtype,
            delimiter=",",
            comments=None,
            quotechar='"',
            skiprows=int(has_header),
            ndmin=2,
        )


def _read_first(path: Path) -> list[str]:
    """Returns the values of the first line."""
    with _opened(path) as file:
        return file.readline(_LONGEST).strip().split(",")


def _check_size(path: Path) -> None:
    """Checks that a file can be read into memory, before it is."""
    if path.suffix.lower() != ".gz":
        check_fits(path.stat().st_size, "the values")
        return
    # What a gzip file says of its size can be a lie.
    size = 0
    with gzip.open(path) as file:
        while chunk := file.read(2**20):
            size += len(chunk)
            check_fits(size, "the values")


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.all((pixels >= 0) & (pixels <= 255) & (pixels == np.rint(pixels))):
        raise UserError("its pixels must be whole numbers from 0 to 255")
    return pixels.astype(np.uint8)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.TextIOBase]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        yield file


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (*DAMAGE, zlib.error) as error:
        raise UserError(
            f"{path} is no CSV of images that can be read: {one_line(error, 200)}."
        ) from error
