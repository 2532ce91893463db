"""The frame of every page: its style and its script."""

import importlib.resources
import string

from dc_jax.report.markup import text


def fill(title: str, body: str) -> bytes:
    """Returns a page. The title is text, the body HTML."""
    template = importlib.resources.files("dc_jax.report").joinpath("page.html")
    page = string.Template(template.read_text("utf-8"))
    # Names of files need not be UTF-8.
    return page.substitute(title=text(title), body=body).encode(
        "utf-8", "backslashreplace"
    )
