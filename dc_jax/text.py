"""Text that any file can hold."""


def is_unicode(text: str) -> bool:
    """Whether a text is Unicode; what Python makes of a file name need not be."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
