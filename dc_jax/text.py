"""What a text is that names a file."""

import re


def is_unicode(text: str) -> bool:
    """Whether a text is Unicode; what Python makes of a file name need not be."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_url(path: str) -> bool:
    """Whether a path is one such as `gs://bucket/folder`, which is no folder here."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", path) is not None
