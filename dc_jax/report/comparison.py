"""The page of a comparison: a table of methods, and the first images of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dc_jax.files import read_json, write_atomically
from dc_jax.report import images, markup
from dc_jax.report.files import read_files
from dc_jax.report.markup import text
from dc_jax.report.template import fill

NAME = "comparison.html"
HEAD = ("method", "test accuracy", "images", "bytes", "made in")


def write(folder: Path) -> None:
    """Writes the page on `comparison.json` and the runs beside it."""
    content = read_json(folder / "comparison.json")
    title = f"{content['dataset']}, {content['ipc']} image(s) per class: methods"
    rows = [cells(row) for row in content["methods"]]
    facts = ", ".join(f"{name} {value}" for name, value in content["protocol"].items())
    body = (
        f"<h1>{text(title)}</h1>{markup.table('Methods', HEAD, rows)}"
        '<p class="soft">Mean and standard deviation over networks that were trained '
        "from scratch on each set in the same way. There is a byte for each value of "
        f"an image. The training: {text(facts)}.</p>"
    )
    for row in content["methods"]:
        name = row["method"]
        report = f'<a href="{text(name)}/report.html">Its report</a>'
        shown = images.sets(read_files(folder / name))
        body += f"<section><h2>{text(name)}</h2><p>{report}</p>{shown}</section>"
    write_atomically(folder / NAME, fill(title, body))


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of a method under `HEAD`."""
    mean, std = 100 * row["accuracy_mean"], 100 * row["accuracy_std"]
    seconds = row["seconds"]
    made = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return (
        row["method"],
        f"{mean:.1f} ± {std:.1f} %",
        f"{row['images']:,}",
        f"{row['bytes']:,}",
        made if seconds else "–",
    )
