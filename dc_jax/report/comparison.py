"""The page of a comparison: a table of methods, and the first images of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dc_jax.files.content import read_json, write_atomically
from dc_jax.report import images, markup, numbers
from dc_jax.report.accuracy import in_percent, num_networks
from dc_jax.report.files import read_files
from dc_jax.report.markup import text
from dc_jax.report.template import fill

NAME = "comparison.html"
HEAD = ("method", "test accuracy", "images", "bytes", "made in")


def write(folder: Path) -> None:
    """Writes the page on `comparison.json` and the runs beside it."""
    content = read_json(folder / "comparison.json")
    rows = content["methods"]
    runs = [read_files(folder / row["method"]) for row in rows]
    # The first are random images; `whole` has no images per class.
    title = f"{numbers.title(runs[0])}: methods"
    facts = ", ".join(f"{name} {value}" for name, value in content["protocol"].items())
    body = (
        f"<h1>{text(title)}</h1>{markup.table('Methods', HEAD, map(cells, rows))}"
        f'<p class="soft">{_of(rows)} trained from scratch on each set in the same '
        "way. There is a byte for each value of an image. "
        f"The training: {text(facts)}.</p>"
    )
    for row, run in zip(rows, runs, strict=True):
        name = row["method"]
        report = f'<a href="{text(name)}/report.html">Its report</a>'
        shown = images.sets(run)
        body += f"<section><h2>{text(name)}</h2><p>{report}</p>{shown}</section>"
    write_atomically(folder / NAME, fill(title, body))


def _of(rows: Sequence[Mapping[str, Any]]) -> str:
    if all(num_networks(row) == 1 for row in rows):
        return "Each is of one network that was"
    return "Mean and standard deviation over networks that were"


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of a method under `HEAD`."""
    seconds = row["seconds"]
    made = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    made += ", ended early" if "stopped" in row else ""
    return (
        row["method"],
        in_percent(row),
        f"{row['images']:,}",
        f"{row['bytes']:,}",
        made if seconds else "–",
    )
