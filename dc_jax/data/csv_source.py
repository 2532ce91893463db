"""Reads images as rows of CSV, as of MNIST: a label, then the grey levels.

With a header or without; separated by commas, semicolons or tabs; files may be gzipped.
`csv_columns` tells which column has the labels.
"""

import contextlib
import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from dc_jax.data.csv_columns import (
    Head,
    find_label,
    is_number,
    read_head,
    split_line,
)
from dc_jax.data.facts import number_names
from dc_jax.data.labels import read_labels
from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files.content import DAMAGE

_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
# Of the first lines, of which any text of one line would be taken otherwise.
_LONGEST = 2**24
# What reading a file raises.
_DAMAGE = (*DAMAGE, zlib.error, csv.Error)


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


def has_csv(place: Path, name: str) -> bool:
    """Whether there is a file of `find_csv_files` whose rows can be images.

    A file that is asked for, by its path or by the name "csv", is one in any case:
    reading it tells what is wrong.
    """
    files = find_csv_files(place)
    if not files or place.is_file() or name == "csv":
        return bool(files)
    try:
        _read_head(files["train"])
    except UserError:
        return False
    except _DAMAGE:
        return True
    return True


def read_csv(place: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Reads all images of the files of `find_csv_files` into memory.

    A test file without labels is not used.

    Returns:
      `train_images`, `[n, H, W, 1]` uint8, and `train_labels`, `[n]` int32; with a test
      file `test_...` too; and the names of the classes, None where labels are numbers.

    Raises:
      UserError: a file is damaged, or holds something else.
    """
    arrays, num_columns, label, names, class_names = {}, 0, None, None, None
    for split, path in find_csv_files(place).items():
        with _naming(path):
            head = _read_head(path)
            if split == "test" and head.num_columns == num_columns - 1:
                logging.info("%s has no labels; it is not used.", path)
                continue
            num_columns = head.num_columns
            side = math.isqrt(num_columns - 1)
            if side**2 != num_columns - 1 or side < 2:
                raise UserError(
                    f"it has {num_columns} columns, must have a label and the pixels "
                    "of a square grey image, such as 785 for 28x28"
                )
            table, words = _read_table(path, head)
            # Without a header, both files have the same columns.
            label = label if head.label is None else head.label
            label = find_label(table) if label is None else label
            pixels = _to_uint8(np.delete(table, label, axis=1))
            arrays[f"{split}_images"] = pixels.reshape(-1, side, side, 1)
            labels, found = _read_labels(table[:, label], words, names)
            arrays[f"{split}_labels"] = labels
            if split == "train":
                class_names = found
                names = found or number_names(int(labels.max()) + 1)
            elif class_names and not words:
                raise UserError("its labels are numbers, those to train on are words")
    return arrays, class_names


def _read_labels(
    column: np.ndarray, words: Sequence[str], names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Returns what `data.labels.read_labels` does; words are given by their places."""
    if not words:
        return read_labels(column, "its labels", names)
    check_fits(4 * len(words) * max(map(len, words)), "the labels")
    places, names = read_labels(np.array(words), "its labels", names)
    return places[column.astype(np.int64)], names


def _read_table(path: Path, head: Head) -> tuple[np.ndarray, list[str]]:
    """Returns all values, `[n, columns]`, and the words that are labels.

    In the place of a word is its place among them.
    """
    _check_size(path)
    words: dict[str, int] = {}
    converters = None
    if head.are_words:
        count = lambda text: words.setdefault(text.strip(), len(words))  # noqa: E731
        converters = {head.label: count}
    # Whole numbers may be written as 3.0, and be above 255.
    for dtype in (np.float32,) if head.are_words else (np.uint8, np.float32):
        try:
            return _load(path, head, dtype, converters), list(words)
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            caught = error
    _check_lines(path, head)
    raise caught


def _load(
    path: Path, head: Head, dtype: type, converters: dict | None = None
) -> np.ndarray:
    with _opened(path) as file:
        if head.has_header:
            next((line for line in file if line.strip()), None)
        return np.loadtxt(
            file,
            dtype,
            delimiter=head.separator,
            comments=None,
            converters=converters,
            encoding="utf-8",
            quotechar='"',
            ndmin=2,
        )


def _check_lines(path: Path, head: Head) -> None:
    """Raises a `UserError` for the first line that is no row of numbers."""
    is_header = head.has_header
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            values = split_line(line, head.separator)
            if len(values) != head.num_columns:
                raise UserError(
                    f"line {number} has {len(values)} values, must have "
                    f"{head.num_columns} as the first line has"
                )
            if all(values) and "".join(values).isdecimal():
                continue  # Most lines, in a fraction of the time.
            for column, value in enumerate(values):
                may_be_word = is_header or (head.are_words and column == head.label)
                if not may_be_word and not is_number(value):
                    raise UserError(
                        f"line {number}, column {column + 1} must be a number, got "
                        f"{one_line(repr(value), 80)}"
                    )
            is_header = False


def _read_head(path: Path) -> Head:
    with _opened(path) as file:
        return read_head([file.readline(_LONGEST) for _ in range(2)])


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


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.TextIOBase]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        yield file


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        is_text = not isinstance(error, UnicodeDecodeError)
        problem = one_line(error, 400) if is_text else "it must be text in UTF-8"
        raise UserError(
            f"{path} is no CSV of images that can be read: {problem.rstrip('.')}."
        ) from error
