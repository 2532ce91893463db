"""The table of scores, from the accuracies of all rows: Markdown, HTML, numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dc_jax.report import markup, template
from experiments.scores import formulas
from experiments.scores.measures import ON
from experiments.scores.rows import RANDOM, RANDOM_SOFT
from experiments.sweep import tables

HEAD = (
    *("set", "images per class", "bytes", "labels", "paper", "strong"),
    *("HLR", "IOR", "LRS", "ARS", "other networks", "8 bits"),
)
NOTE = (
    "Test accuracy in percent, mean ± standard deviation over networks, under the "
    "evaluations paper and strong; all columns after these are of strong. Bytes: one "
    "for each value of an image, four for each probability of soft labels. HLR: the "
    "accuracy of all images, as it was given, minus that of the set with hard labels, "
    "in points. IOR: the accuracy minus that of random images, in points; of a set "
    "with soft labels, minus that of random_soft if it is in the table. LRS and ARS: "
    "the scores of DD-Ranking, from 0 to 1; ARS is of the improvements over random "
    "with and without augmentation. Other networks: the mean accuracy of {networks}. "
    "8 bits: of the images as 8-bit pixels, which are those of PNG files, too."
)

# A row: its facts, `method`, and `cells`, the results of measures by name.
Row = Mapping[str, Any]


def score(
    row: Row, rows: Sequence[Row], content: Mapping[str, Any]
) -> dict[str, float]:
    """Returns the scores that the accuracies allow, fractions, by name.

    Args:
      row: whose they are.
      rows: all of them; the baselines of its size are among them.
      content: of `scores.json`: the other networks, and `whole`, the accuracy of all
        images, or None.
    """
    whole = content["whole"]
    mean = _means(row)
    scores: dict[str, float] = {}
    others = [mean[name] for name in mean if name.startswith(ON)]
    if others and len(others) == len(content["networks"]):
        scores["cross_architecture"] = float(np.mean(others))
    hard = mean.get("hard" if row["soft_labels"] else "strong")
    if whole is not None and hard is not None:
        scores["hlr"] = formulas.hard_label_recovery(whole, hard)
    baseline = _means(_baseline(row, rows))
    for name, measure in (("ior", "strong"), ("ior_plain", "plain")):
        if measure in mean and measure in baseline:
            pair = (mean[measure], baseline[measure])
            scores[name] = formulas.improvement_over_random(*pair)
    if {"hlr", "ior"} <= set(scores):
        scores["lrs"] = formulas.label_robust_score(scores["hlr"], scores["ior"])
    if {"ior", "ior_plain"} <= set(scores):
        both = (scores["ior"], scores["ior_plain"])
        scores["ars"] = formulas.augmentation_robust_score(*both)
    return scores


def _means(row: Row) -> dict[str, float]:
    return {name: cell["accuracy_mean"] for name, cell in row["cells"].items()}


def _baseline(row: Row, rows: Sequence[Row]) -> Row:
    """Returns the random images that a row is compared with."""
    of_size = {r["method"]: r for r in rows if r["class_ipc"] == row["class_ipc"]}
    if row["soft_labels"] and RANDOM_SOFT in of_size:
        return of_size[RANDOM_SOFT]
    return of_size[RANDOM]


def lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Returns the cells of each row under `HEAD`; a dash is not measured."""
    return [_line(row) for row in rows]


def _line(row: Row) -> tuple[str, ...]:
    cells, scores = row["cells"], row["scores"]

    def accuracy(name: str) -> str:
        return tables.both(cells[name], None) if name in cells else "–"

    def points(name: str) -> str:
        return f"{100 * scores[name]:.1f}" if name in scores else "–"

    def number(name: str) -> str:
        return f"{scores[name]:.3f}" if name in scores else "–"

    return (
        *(row["name"], row["ipc"], f"{row['bytes']:,}"),
        "soft" if row["soft_labels"] else "hard",
        *(accuracy("paper"), accuracy("strong"), points("hlr"), points("ior")),
        *(number("lrs"), number("ars"), points("cross_architecture")),
        accuracy("pixels"),
    )


def to_markdown(content: Mapping[str, Any]) -> str:
    """Returns the table of `scores.json` and what its columns are."""
    return f"{tables.markdown(HEAD, lines(content['rows']))}\n\n{_note(content)}\n"


def to_page(content: Mapping[str, Any]) -> bytes:
    """Returns the same as a page."""
    title = f"{content['dataset']}: scores of condensed sets"
    table = markup.table("Scores", HEAD, lines(content["rows"]))
    note = markup.text(_note(content))
    body = f'<h1>{markup.text(title)}</h1>{table}<p class="soft">{note}</p>'
    return template.fill(title, body)


def _note(content: Mapping[str, Any]) -> str:
    return NOTE.format(networks=", ".join(content["networks"]) or "none")
