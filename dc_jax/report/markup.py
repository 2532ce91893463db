"""Returns the pieces of HTML from which the sections of a report are made.

Arguments are text, which is escaped here, unless a docstring says that they are HTML.
"""

import base64
import html
from collections.abc import Iterable, Mapping
from typing import Any


def text(value: Any) -> str:
    """Returns a value as escaped text."""
    return html.escape(str(value))


def section(title: str, body: str) -> str:
    """Returns a section of the page; the body is HTML."""
    return f"<section><h2>{text(title)}</h2>{body}</section>"


def figure(body: str, caption: str) -> str:
    """Returns a figure; both are HTML."""
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>"


def image(png: bytes, alt: str, size: tuple[int, int], attributes: str = "") -> str:
    """Returns a picture that is embedded in the page.

    Args:
      png: the picture.
      alt: a description of the picture for screen readers.
      size: its width and height in pixels of the page.
      attributes: further attributes, HTML.
    """
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    width, height = size
    return (
        f'<img src="{uri}" alt="{text(alt)}" width="{width}" height="{height}"'
        f"{attributes}>"
    )


def facts(values: Mapping[str, Any]) -> str:
    """Returns a table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>'
        for name, value in values.items()
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def table(label: str, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Returns a table with a row of headings, which scrolls if it is too wide."""
    headings = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return scrolling(
        label,
        f'<table class="facts"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{lines}</tbody></table>",
    )


def scrolling(label: str, body: str) -> str:
    """Returns a box that scrolls if it is too wide for the page; the body is HTML."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">'
        f"{body}</div>"
    )
