"""Makes the page of the parts that there are, and writes it where a run has ended."""

import contextlib
import importlib.resources
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.data.dataset import Dataset
from dc_jax.errors import one_line
from dc_jax.files import write_atomically
from dc_jax.report import images, kept, numbers
from dc_jax.report.files import Files, read_files
from dc_jax.report.markup import text

NAME = "report.html"

_PARTS = (
    numbers.head,
    numbers.published,
    images.of_sets,
    images.evolution,
    numbers.curves,
    numbers.confusion,
    images.neighbours,
    numbers.evaluations,
    numbers.origin,
)


def finish(
    folder: Path,
    dataset: Dataset,
    sets: list[SyntheticSet],
    counts: np.ndarray | None,
) -> None:
    """Writes what only the end of a run knows of the report, and the report, if it can.

    Args:
      folder: of the run, which is finished.
      dataset: that was condensed.
      sets: of its experiments; none where networks were trained on everything.
      counts: what the evaluation networks take for what, `[E, N, C, C]`.
    """
    with _going_on(folder, "confusion matrix"):
        if counts is not None:
            kept.save_confusion(folder, counts.sum(axis=(0, 1)))
    with _going_on(folder, "nearest training images"):
        if sets and sets[0].indices is None:
            kept.save_neighbours(folder, sets[0], dataset)
    write_if_possible(folder)


def write_if_possible(folder: Path) -> None:
    """Writes the report, or logs why it cannot."""
    with _going_on(folder, NAME):
        logging.info("Report: %s.", write(folder))


def write_if_missing(folder: Path) -> None:
    """Does the same where there is no report."""
    if not (folder / NAME).exists():
        write_if_possible(folder)


@contextlib.contextmanager
def _going_on(folder: Path, part: str) -> Iterator[None]:
    """Logs an error of whatever kind: the run is finished, with a report or without."""
    try:
        yield
    except Exception as error:
        name = type(error).__name__
        logging.warning("No %s of %s: %s: %s", part, folder, name, one_line(error))


def write(folder: Path) -> Path:
    """Writes the report of what is in the folder of a run; returns its path.

    The same files always make the same report.

    Raises:
      OSError: a file cannot be read or written.
      UserError: there is no run in the folder, or its card or config is damaged.
    """
    path = folder / NAME
    # Names of files need not be UTF-8.
    write_atomically(path, make(folder).encode("utf-8", "backslashreplace"))
    return path


def make(folder: Path) -> str:
    """Returns the report as HTML; see `write`."""
    run = read_files(folder)
    parts = [_if_possible(part, run) for part in _PARTS]
    template = importlib.resources.files("dc_jax.report").joinpath("page.html")
    return string.Template(template.read_text("utf-8")).substitute(
        title=text(numbers.title(run)), body="\n".join(filter(None, parts))
    )


def _if_possible(part: Callable[[Files], str], run: Files) -> str:
    """Returns a part, nothing where a file has values that a run does not write."""
    try:
        return part(run)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        logging.warning("Not in the report: %s (%r).", part.__name__, e)
        return ""
