"""Makes the page from its sections, and writes it at the end of a run.

A run is saved before its report is made, so the report must not make it fail:
`keep_...`, `write_if_possible` and `refresh` log each exception and return. A
file that cannot be read or written is a warning; any other exception is a bug of this
package, which they log as an error with its traceback. `write` raises.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from dc_jax.data.dataset import Dataset
from dc_jax.errors import UserError, one_line
from dc_jax.files.content import write_atomically
from dc_jax.report import curves, images, kept, numbers
from dc_jax.report.files import read_files
from dc_jax.report.template import fill
from dc_jax.sets import set_file

NAME = "report.html"
# In the head of every report; the second in those of earlier versions.
_MARKS = (
    b'<meta name="generator" content="dc_jax">',
    b'<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
)

# The sections of the page, in order: a title, and a function that returns the body as
# HTML, or "" for a run that has nothing to show there. A new section is a line here.
# (A single number for the top of the page is a line of `numbers.NUMBERS`, and a new
# chart by iteration a line of `curves.CHARTS`.)
_SECTIONS = (
    ("Published accuracies", numbers.published),
    ("Images", images.sets),
    ("How the images came about", images.evolution),
    ("Curves", curves.curves),
    ("Confusion matrix", numbers.confusion),
    ("The nearest training images", images.neighbours),
    ("Evaluations", numbers.evaluations),
    ("How the run was made", numbers.origin),
)


def keep_confusion(folder: Path, counts: np.ndarray | None) -> None:
    """Writes how many test images of each class are taken for each, if it is known.

    The counts, `[E, N, C, C]`, are those of all evaluation networks.
    """
    with _logged_exceptions(folder, "confusion matrix"):
        if counts is not None:
            kept.save_confusion(folder, counts.sum(axis=(0, 1)))


def keep_neighbours(folder: Path, dataset: Dataset) -> None:
    """Writes the training images nearest to those of the set in a folder."""
    with _logged_exceptions(folder, "nearest training images"):
        synthetic = set_file.load_synthetic_set(folder)
        kept.save_neighbours(folder, synthetic, dataset)


def write_if_possible(folder: Path) -> None:
    """Writes the report."""
    with _logged_exceptions(folder, NAME):
        logging.info("Report: %s.", write(folder))


def refresh(folder: Path) -> None:
    """Writes the report of a finished run if it is missing, or not what it would be."""
    with _logged_exceptions(folder, NAME):
        path = folder / NAME
        if not path.exists() or path.read_bytes() != make_page(folder):
            write_if_possible(folder)


@contextlib.contextmanager
def _logged_exceptions(folder: Path, part: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UserError) as error:
        logging.warning("%s has no %s: %s", folder, part, one_line(error))
    except Exception:
        logging.exception("%s has no %s because of a bug of dc_jax:", folder, part)


def write(folder: Path) -> Path:
    """Writes the report on the files in the folder of a run; returns its path.

    Raises:
      OSError: a file cannot be read or written.
      UserError: there is no run in the folder, its card or config is damaged, or
        `report.html` is somebody else's.
    """
    page, path = make_page(folder), folder / NAME
    if path.exists() and not is_ours(path):
        raise UserError(f"{path} is no report of a run: rename it.")
    write_atomically(path, page)
    return path


def make_page(folder: Path) -> bytes:
    """Returns the report; the same files always give the same. Raises as `write`."""
    run = read_files(folder)
    body = numbers.head(run)
    for title, section in _SECTIONS:
        if content := section(run):
            body += f"\n<section><h2>{title}</h2>{content}</section>"
    return fill(numbers.title(run), body)


def is_ours(path: Path) -> bool:
    """Whether a page is a report that was made here."""
    with path.open("rb") as file:
        head = file.read(4000)
    return any(mark in head for mark in _MARKS)
