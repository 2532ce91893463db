"""What a text is that names a file."""

import re


def is_unicode(text: str) -> bool:
    """Whether a text is Unicode; what Python makes of a file name need not be."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_address(path: str) -> bool:
    """Whether a path is one such as `gs://bucket/folder`."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", path) is not None


def check_is_local(flag: str, path: str) -> None:
    """Checks that a path is no address.

    Raises:
      ValueError: it is.
    """
    if is_address(path):
        raise ValueError(
            f"{flag} must be a folder of this machine, got {path}; a bucket can be "
            "mounted as one."
        )
