"""Errors that are the user's own mistakes, and how they are told: in one line."""

import contextlib
import importlib
import os
import re
import types
from collections.abc import Iterator

from absl import logging


class UserError(ValueError):
    """A mistake of the user: a value, a file or a folder that cannot be used.

    The commands print it as one line. Any other error keeps its traceback.
    """


# What the commands print as one line: mistakes of the user, files that cannot be read
# or written, a loss that became infinite. Any other error is a bug of the program.
ERRORS = (UserError, OSError, FloatingPointError)


# Control characters but for tab and line feed, those that reverse the direction of
# writing, and halves of surrogate pairs, which are no Unicode.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Returns a text with escapes in place of what could steer a terminal.

    Names of files and classes come from anybody.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def one_line(error: object, limit: int | None = None) -> str:
    """Returns what an error, or anything that has a text, says in a printable line.

    That is the name of its type where it says nothing; at most `limit` characters.
    """
    # ml_collections raises AttributeError(KeyError(text)) for an unknown field.
    while getattr(error, "args", ()) and isinstance(error.args[0], BaseException):
        error = error.args[0]
    # A KeyError puts its text into quotes.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = printable(" ".join(str(text).split())) or type(error).__name__
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"


def short_name(name: str) -> str:
    """Returns the name of a class, which may be anybody's, for a message or the log."""
    return one_line(name, 60) if name else "''"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of Python, NumPy or JAX, is that there is too little memory."""
    texts = ("RESOURCE_EXHAUSTED", "Out of memory")
    is_of_jax = isinstance(error, RuntimeError) and any(t in str(error) for t in texts)
    return is_of_jax or isinstance(error, MemoryError)


def check_fits(num_bytes: int, what: str) -> None:
    """Checks that arrays do not take more than all memory, before they are made.

    `what` says in words which; it is the subject of the error's sentence, a plural.

    Raises:
      UserError: this machine has less memory.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > there:
        memory = f"the {there / 2**30:.1f} GiB of memory of this machine"
        size = f"{num_bytes / 2**30:,.1f} GiB"
        raise UserError(f"{what} take {size}, more than {memory}.")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Holds back what a library logs, but errors: our own message tells what is wrong.

    It logs by absl.
    """
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_package(name: str, extra: str) -> types.ModuleType:
    """Imports a module of a package that an extra of dc_jax installs.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package, command = name.partition(".")[0], f'pip install -e ".[{extra}]"'
        message = f"{package} cannot be imported ({error}): {command}."
        raise UserError(message) from error
