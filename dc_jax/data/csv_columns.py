"""What the columns of a CSV of images are: which has the labels, which separator."""

import csv
import dataclasses
from collections.abc import Sequence

import numpy as np

from dc_jax.data.folder import SUFFIXES
from dc_jax.errors import UserError, one_line

_SEPARATORS = ",;\t"
_LABELS = ("label", "labels", "class", "target")
# So few columns are no image.
_FEW = 4
# How many times as often the commonest class of labels can be there as the rarest one,
# for a column to be labels whatever else there is.
_BALANCE = 10


@dataclasses.dataclass(frozen=True)
class Head:
    """What the first two lines tell."""

    separator: str
    num_columns: int
    has_header: bool
    label: int | None  # The column of the labels; None where these lines do not tell.
    are_words: bool  # Whether the labels are words rather than numbers.


def split_line(line: str, separator: str) -> list[str]:
    """Returns the values of a line of CSV, in which some can be in quotes."""
    return [value.strip() for value in next(csv.reader([line], delimiter=separator))]


def read_head(lines: Sequence[str]) -> Head:
    """Returns what the first two lines of a file tell.

    Raises:
      UserError: they cannot be those of images in rows.
    """
    first, *others = [line for line in lines if line.strip()] or [""]
    if not first:
        raise UserError("it is empty")
    separator = max(_SEPARATORS, key=first.count)
    names, *rows = [split_line(line, separator) for line in (first, *others)]
    _check_pictures((names, *rows))
    if len(names) <= _FEW:
        raise UserError(
            f"it begins with {one_line(first, 80)!r}, must have a label and the pixels "
            "of an image in each row, separated by commas, semicolons or tabs"
        )
    words = _find_words(names)
    has_header = (
        2 * len(words) > len(names)
        or any(names[place].lower() in _LABELS for place in words)
        or (bool(words) and _are_counted(names, words))
    )
    if has_header and not rows:
        raise UserError("it has a header and no images")
    if has_header:
        words = _find_words(rows[0])
    label = _find_name(names) if has_header else None
    # A word elsewhere is damage.
    if label is None and words in ([0], [len(names) - 1]):
        (label,) = words
    return Head(separator, len(names), has_header, label, label in words)


def find_label(table: np.ndarray) -> int:
    """Returns which column of a table without a header has the labels, 0 or -1.

    Labels are the first column, as of MNIST, or the last one. They are numbers without
    gaps that are about as frequent; or they are larger than all pixels; or the other
    column cannot be labels, as in a corner of MNIST, where all pixels are 0.

    Raises:
      UserError: either column could be the labels, or none.
    """
    if not np.array_equal(table, np.rint(table)):
        raise UserError("its labels and pixels must be whole numbers")
    largest = table[:, 1:-1].max()
    ends = {place: table[:, place] for place in (0, -1)}
    even = {place for place, column in ends.items() if _are_even(column)}
    larger = {place for place, column in ends.items() if column.max() > largest}
    some = {place for place, column in ends.items() if _are_labels(column)}
    told = [found for found in (even, larger) if len(found) == 1]
    told = told or [found for found in (some,) if len(found) == 1]
    places = set().union(*told)
    if len(places) != 1:
        raise UserError(
            "it cannot be told whether its first or its last column has the labels: "
            "add a header with a name for each column, which calls that one label"
        )
    return places.pop()


def is_number(text: str) -> bool:
    """Whether a value of a CSV is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _find_words(values: Sequence[str]) -> list[int]:
    return [place for place, value in enumerate(values) if not is_number(value)]


def _find_name(names: Sequence[str]) -> int | None:
    """Returns the column that a header calls labels."""
    for place, name in enumerate(names):
        if name.lower() in _LABELS:
            return place
    # Those of pixels have numbers.
    plain = [i for i, name in enumerate(names) if not any(map(str.isdigit, name))]
    return plain[0] if len(plain) == 1 else None


def _are_counted(names: Sequence[str], words: Sequence[int]) -> bool:
    """Whether a header numbers the pixels: 0, 1, 2 or 1, 2, 3 and so on."""
    numbers = [name for place, name in enumerate(names) if place not in words]
    counts = [[str(i + start) for i in range(len(numbers))] for start in (0, 1)]
    return numbers in counts


def _check_pictures(rows: Sequence[Sequence[str]]) -> None:
    """Raises a `UserError` where rows have the names of files of pictures."""
    for value in (value for row in rows for value in row):
        if value.lower().endswith(tuple(SUFFIXES)):
            raise UserError(
                f"it lists files of pictures, such as {one_line(value, 80)}; these are "
                "read from a folder per class: put each picture into the sub-folder of "
                "its class, and give --config.dataset.name=folder"
            )


def _are_even(column: np.ndarray) -> bool:
    """Whether numbers have no gaps from 0 or 1, and are about as frequent."""
    held, counts = np.unique(column, return_counts=True)
    has_gaps = not np.array_equal(held, np.arange(len(held)) + (held[0] != 0))
    return len(held) > 1 and not has_gaps and counts.max() <= _BALANCE * counts.min()


def _are_labels(column: np.ndarray) -> bool:
    """Whether numbers could be labels at all: several of them, that come again."""
    return 1 < len(np.unique(column)) <= len(column) / 2
