"""The title and the sections with numbers: accuracies, confusion, origin."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from dc_jax.config import describe_ipc
from dc_jax.data.facts import plain_name
from dc_jax.report import markup
from dc_jax.report.accuracy import in_percent, num_networks
from dc_jax.report.files import Files
from dc_jax.report.markup import text
from dc_jax.report.published import TABLE1, WHOLE
from dc_jax.sets.image_grid import to_png

# The confusion matrix:
_CELLS = 20  # With more classes than this the matrix is a picture, not a table.
_PIXELS = 480  # The width of that picture on the page, about.
_DARK = 0.8  # From this share on a cell is so dark that its number is white.
_WORST = 10  # How many mistakes to list.

_METHODS = {
    "dc": "Gradient matching (dc)",
    "dsa": "Gradient matching with Siamese augmentation (dsa)",
    "dm": "Distribution matching (dm)",
    "dd": "Dataset distillation (dd)",
    "frepo": "Neural feature regression (frepo)",
    "mtt": "Training trajectories (mtt)",
    "ncfm": "Characteristic function matching (ncfm)",
    "whole": "Networks trained on the whole training set (whole)",
}


def title(run: Files) -> str:
    """Returns the title of the page: the dataset and the images per class."""
    config = run.config
    if not config:
        return "Evaluations of synthetic sets"
    dataset = plain_name(config["dataset"]["name"], config["dataset"].get("path"))
    (dataset,) = markup.short([dataset])
    if config["method"] == "whole":
        return f"{dataset}, all training images"
    images = "image" if config["ipc"] == 1 else "images"
    return f"{dataset}, {describe_ipc(config['ipc'])} {images} per class"


def head(run: Files) -> str:
    """Returns the top of the page: the title, the method and `NUMBERS`."""
    heading = f"<h1>{text(title(run))}</h1>"
    if not run.config:
        return heading
    name = run.config["method"]
    is_chosen = bool(run.sets) and run.sets[0].indices is not None
    method = _METHODS.get(name, f"Real images chosen by {name}" if is_chosen else name)
    state = "" if run.card else "<p>The run has not finished.</p>"
    values = {name: value(run.result) for name, value in NUMBERS} if run.card else {}
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
        for name, value in values.items()
        if value
    )
    return f'{heading}<p>{text(method)}.</p>{state}<dl class="numbers">{items}</dl>'


def _own_accuracy(result: Mapping[str, Any]) -> str:
    return in_percent(result["own_protocol"]) if result.get("own_protocol") else ""


def _random(result: Mapping[str, Any]) -> str:
    return in_percent(result["random"]) if result.get("random") else ""


def _gain(result: Mapping[str, Any]) -> str:
    if not result.get("random"):
        return ""
    gain = 100 * (result["accuracy_mean"] - result["random"]["accuracy_mean"])
    return f"{gain:+.1f} points"


def _images(result: Mapping[str, Any]) -> str:
    number = result.get("training_images")
    return "" if number is None else f"{number:,}"


def _time(result: Mapping[str, Any]) -> str:
    seconds = result.get("seconds")
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# The numbers at the top of the page, in order: a name, and a function of the fields of
# `result.json` that returns the text, or "" for a run without this number. A metric
# that a run adds to its result is shown by a line here.
NUMBERS = (
    ("Test accuracy", in_percent),
    ("Networks tested", num_networks),
    ("Accuracy with the set's own training", _own_accuracy),
    ("As many random real images", _random),
    ("Gain over random images", _gain),
    ("Training images", _images),
    ("Total time", _time),
)


def published(run: Files) -> str:
    """Returns published accuracies beside the run's, if the two are comparable."""
    config = run.config
    if not (
        run.card
        and config["network"]["name"] == "ConvNet"
        and config["evaluation"].get("network") in (None, "ConvNet")
        and config["dataset"].get("validation") is None
    ):
        return ""
    dataset = config["dataset"]["name"].removesuffix("_cropped")
    of_run = (dataset, config["ipc"])
    values = {key[2]: value for key, value in TABLE1.items() if key[:2] == of_run}
    values = {} if config["method"] == "whole" else values
    if dataset in WHOLE:
        values["whole"] = WHOLE[dataset]
    if not values:
        return ""
    rows = [(f"this run: {config['method']}", in_percent(run.result))]
    rows += [(method, f"{value} %") for method, value in values.items()]
    return (
        markup.table("Accuracies", ("method", "test accuracy"), rows)
        + '<p class="soft">From Zhao, Mopuri and Bilen, 2021, Table 1; dsa and dm from '
        "their own papers. All use the ConvNet. A question mark means that the value "
        "was not checked against the paper.</p>"
    )


def confusion(run: Files) -> str:
    """Returns the confusion matrix and the most frequent mistakes."""
    counts = run.confusion
    names = markup.short(run.sets[0].class_names) if run.sets else ()
    if counts is None or len(names) != len(counts):
        return ""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(counts) <= _CELLS:
        matrix = _table(shares, names)
    else:
        size = len(counts) * max(_PIXELS // len(counts), 1)
        alt = (
            "Confusion matrix: a brighter pixel means that the networks take more "
            "images of the row's class for the column's class"
        )
        png = to_png(np.rint(255 * shares).astype(np.uint8)[..., None])
        matrix = markup.image(png, alt, (size, size))
    return (
        "<p>Each row is the true class of the test images, each column the class that "
        "the evaluation networks predict, in percent of the row.</p>"
        f"{matrix}{_mistakes(shares, names)}"
    )


def _table(shares: np.ndarray, names: Sequence[str]) -> str:
    rows = ""
    for name, row in zip(names, shares, strict=True):
        rows += f'<tr><th scope="row">{text(name)}</th>'
        for share in row:
            style = " class=much" if share >= _DARK else ""
            percent = 100 * share
            rows += f'<td style="--share:{percent:.0f}%"{style}>{percent:.1f}</td>'
        rows += "</tr>"
    head = f"<td></td>{markup.headings(names)}"
    return markup.scrolling("Confusion matrix", "confusion", head, rows)


def _mistakes(shares: np.ndarray, names: Sequence[str]) -> str:
    wrong = shares * (1 - np.eye(len(shares)))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:_WORST]
    items = "".join(
        f"<li>{text(names[i])} taken for {text(names[j])}: {100 * wrong[i, j]:.1f} %"
        "</li>"
        for i, j in zip(*np.unravel_index(worst, wrong.shape), strict=True)
        if wrong[i, j] > 0
    )
    return f"<h3>Most frequent mistakes</h3><ol>{items}</ol>" if items else ""


def evaluations(run: Files) -> str:
    """Returns the accuracies that `--mode=evaluate` measured."""
    rows = [
        (x["set"], x["protocol"]["network"], in_percent(x)) for x in run.evaluations
    ]
    head = ("set", "network", "test accuracy")
    return markup.table("Evaluations", head, rows) if rows else ""


def origin(run: Files) -> str:
    """Returns what is needed to make the run again: its command, data and config."""
    if not run.config:
        return ""
    values = {"Seed": run.config["seed"], "Dataset": run.config["dataset"]["name"]}
    values |= _course(run)
    command = ""
    if run.card:
        dataset = run.card["dataset"]
        values |= {
            "Dataset": dataset["source"],
            "SHA-256 of the dataset": dataset["checksum"],
            "Images of the dataset": f"{dataset['num_train']:,} for training and "
            f"{dataset['num_test']:,} for testing, "
            f"{'x'.join(map(str, dataset['image_shape']))}, "
            f"{dataset['num_classes']} classes",
            "Evaluation": _join(run.card["protocol"]),
            "Versions": _join(run.card["versions"]),
            "Finished": run.card["created"],
        }
        # Lines break between words, not within a flag.
        words = (f"<span>{text(one)}</span>" for one in run.card["command"].split(" "))
        command = f"<h3>Command</h3><pre>{' '.join(words)}</pre>"
    fields = markup.facts(flatten_dict(run.config, sep="."))
    return (
        f"{command}{markup.facts(values)}"
        f"<details><summary>All fields of the config</summary>{fields}</details>"
    )


def _course(run: Files) -> dict[str, str]:
    """Returns iterations and first images of a run, if it has any iterations."""
    done = run.result.get("iterations")
    losses = [x["iteration"] for x in run.metrics if x.get("loss") is not None]
    if done is None and not losses:
        return {}
    total = run.config.get("iterations")
    text = f"{done:,}" if done is not None else f"{max(losses):,} so far"
    if done is None and total is not None:
        text += f", of {total:,}"
    if run.result.get("stopped"):
        text += f" of {total:,}: {run.result['stopped']}"
    first = {
        "noise": "noise",
        "real": "real images",
        "kmeans": "real images, by k-means",
    }.get(run.config.get("init"))
    return {"Iterations": text} | ({"First images": first} if first else {})


def _join(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
