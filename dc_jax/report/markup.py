"""Pieces of HTML. Arguments are text, which is escaped here, unless noted as HTML."""

import base64
import html
from collections.abc import Iterable, Mapping
from typing import Any

from dc_jax.errors import one_line, printable

_NAME = 40  # Characters of the name of a class.


def text(value: Any) -> str:
    """Returns a value as escaped text, without what could steer a terminal."""
    return html.escape(printable(str(value)))


def short(names: Iterable[str]) -> list[str]:
    """Returns names, which may be anybody's, at a length that a page has room for."""
    return [one_line(name, _NAME) if name.strip() else name for name in names]


def figure(body: str, caption: str) -> str:
    """Returns a figure; both are HTML."""
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>"


def image(png: bytes, alt: str, size: tuple[int, int], attributes: str = "") -> str:
    """Returns an embedded picture, `size` (width, height) in pixels of the page.

    `alt` describes it to screen readers. Further attributes are HTML.
    """
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    size_of_page = f'width="{size[0]}" height="{size[1]}"'
    return f'<img src="{uri}" alt="{text(alt)}" {size_of_page}{attributes}>'


def facts(values: Mapping[str, Any]) -> str:
    """Returns a table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>'
        for name, value in values.items()
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def table(label: str, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Returns a table with a row of headings, which scrolls if it is too wide."""
    lines = "".join(
        f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return scrolling(label, "facts", headings(head), lines)


def headings(names: Iterable[str]) -> str:
    """Returns the cells of a row of headings."""
    return "".join(f'<th scope="col">{text(name)}</th>' for name in names)


def scrolling(label: str, style: str, head: str, body: str) -> str:
    """Returns a table of a CSS class that scrolls; head and body are HTML."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">'
        f'<table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
