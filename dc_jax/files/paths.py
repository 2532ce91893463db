"""Paths that users give, on a command line, in a config or from Python."""

import os
import re
from pathlib import Path

from dc_jax.errors import UserError


def user_path(path: str | os.PathLike, name: str) -> Path:
    """Returns a path with `~` and `~user` expanded; `name` is for errors.

    Raises:
      UserError: it is empty, the address of a bucket, or no path at all.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = path
    if not text or not isinstance(text, str) or "\0" in text:
        raise UserError(f"{name} must be a path, got {text!r}.")
    if is_address(text):
        raise UserError(
            f"{name} must be a file or folder, got {text}; a bucket can be mounted as "
            "a folder."
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} is '{text}': {error}") from error


def check_folder(folder: Path, name: str) -> None:
    """Checks that there is, or can be, a folder of this path; `name` is for errors.

    Raises:
      UserError: it is a file, or a folder that it would be in is one.
    """
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise UserError(f"{name} is {folder}: {part} is a file, not a folder.")


def is_address(path: str) -> bool:
    """Whether a path is one such as `gs://bucket/folder`."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", path) is not None
