"""The report of a run, `report.html` in its folder, made of the files there.

One page that needs nothing else: no network, no other files. Every part of it is there
if the files it is of are.

  python -m dc_jax.report --workdir=runs/digits

makes it again.
"""

import argparse
import base64
import collections
import html
import importlib.resources
import io
import json
import string
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict

from dc_jax import artefact, record
from dc_jax.base import SyntheticSet
from dc_jax.charts import line_chart
from dc_jax.command_line import one_line
from dc_jax.config import describe_ipc
from dc_jax.data import Dataset
from dc_jax.published import TABLE1, WHOLE

NAME = "report.html"

_METHODS = {
    "dc": "Gradient matching (dc)",
    "dsa": "Gradient matching with Siamese augmentation (dsa)",
    "dm": "Distribution matching (dm)",
    "dd": "Dataset distillation (dd)",
    "whole": "The whole training set (whole)",
}
_COLUMNS = 10  # Images in a line.
_IMAGE = 64  # Pixels of the page that an image is enlarged to, by a whole factor.
_SINGLE = 96  # The same of a class's only image.
_CELLS = 20  # Classes of a confusion matrix that is a table of numbers, at most.
_WORST = 10  # Confusions that are listed.

# Of `card.json`, and the dicts in it.
Card = dict[str, Any]


def finish(
    folder: Path,
    dataset: Dataset,
    sets: list[SyntheticSet],
    counts: np.ndarray | None,
) -> None:
    """Writes what only the end of a run knows of the report, and the report, if it can.

    Args:
      folder: of the run, which is finished.
      dataset: that was condensed.
      sets: of its experiments; none where networks were trained on everything.
      counts: what the evaluation networks take for what, `[E, N, C, C]`.
    """
    try:
        if counts is not None:
            record.save_confusion(folder, counts.sum(axis=(0, 1)))
        if sets and sets[0].indices is None:
            record.save_neighbours(folder, sets[0], dataset)
    except (OSError, ValueError) as error:
        logging.warning("%s will lack a part: %s", folder / NAME, one_line(error))
    write_if_possible(folder)


def write_if_possible(folder: Path) -> None:
    """Writes the report, or logs why it cannot: the run is finished without it."""
    try:
        path = write(folder)
    except (OSError, ValueError) as error:
        logging.warning("No %s: %s", folder / NAME, one_line(error))
    else:
        logging.info("Report: %s.", path)


def write_if_missing(folder: Path) -> None:
    """Does the same where there is no report."""
    if not (folder / NAME).exists():
        write_if_possible(folder)


def write(folder: Path) -> Path:
    """Writes the report of what is in the folder of a run; returns its path.

    The same files always make the same report.

    Raises:
      OSError: a file cannot be read or written.
      ValueError: a file is damaged, or there is no run in the folder.
    """
    path = folder / NAME
    artefact.write_atomically(path, make(folder).encode())
    return path


def make(folder: Path) -> str:
    """Returns the report as HTML; see `write`."""
    card = _read_json(folder / "card.json")
    config = card.get("config") or _read_json(folder / "config.json")
    evaluations = _read_lines(folder / "evaluations.jsonl")
    if not config and not evaluations:
        raise ValueError(
            f"{folder} holds no run: there is no card.json, config.json or "
            "evaluations.jsonl in it."
        )
    has_sets = (folder / artefact.SET_NAME).exists()
    sets = artefact.load_synthetic_sets(folder) if has_sets else []
    names = sets[0].class_names if sets else ()
    parts = [
        _head(config, card),
        *(_images(i, one, len(sets)) for i, one in enumerate(sets)),
        _evolution(record.read_snapshots(folder), sets),
        _curves(_read_lines(folder / "metrics.jsonl")),
        _confusion(record.read_confusion(folder), names),
        _neighbours(record.read_neighbours(folder), sets),
        _evaluations(evaluations),
        _origin(config, card),
    ]
    template = importlib.resources.files("dc_jax").joinpath("report.html")
    return string.Template(template.read_text("utf-8")).substitute(
        title=html.escape(_title(config)), body="\n".join(filter(None, parts))
    )


def _title(config: Card) -> str:
    if not config:
        return "Evaluations of synthetic sets"
    dataset, method = config["dataset"]["name"], config["method"]
    if method == "whole":
        return f"{dataset}, all training images"
    return f"{dataset}, {describe_ipc(config['ipc'])} image(s) a class"


def _head(config: Card, card: Card) -> str:
    heading = f"<h1>{html.escape(_title(config))}</h1>"
    if not config:
        return heading
    method = _METHODS.get(config["method"], f"Real images chosen by {config['method']}")
    numbers = {}
    accuracy = card.get("accuracy", {})
    if accuracy:
        count = accuracy["num_experiments"] * accuracy["num_evaluations"]
        numbers["Test accuracy"] = _percent(accuracy)
        numbers["Networks tested"] = str(count)
    if "own_protocol" in accuracy:
        numbers["By its own training"] = _percent(accuracy["own_protocol"])
    published = _published(config)
    if published:
        numbers["Published"] = f"{published} %"
    if "training_images" in accuracy:
        numbers["Images to train on"] = f"{accuracy['training_images']:,}"
    if "seconds" in accuracy:
        numbers["Time in all"] = _duration(accuracy["seconds"])
    items = "".join(
        f"<div><dt>{_(name)}</dt><dd>{_(value)}</dd></div>"
        for name, value in numbers.items()
    )
    state = "" if card else "<p>The run has not finished.</p>"
    return f'{heading}<p>{_(method)}.</p>{state}<dl class="numbers">{items}</dl>'


def _published(config: Card) -> str | None:
    """Returns the published accuracy in percent, where the run is comparable."""
    is_other = (
        config["network"]["name"] != "ConvNet"
        or config["evaluation"].get("network") not in (None, "ConvNet")
        or config["dataset"].get("validation") is not None
        or not isinstance(config["ipc"], int)
    )
    if is_other:
        return None
    name = config["dataset"]["name"]
    if config["method"] == "whole":
        value = WHOLE.get(name)
    else:
        value = TABLE1.get((name, config["ipc"], config["method"]))
    return None if value is None else str(value)


def _images(experiment: int, synthetic: SyntheticSet, num_sets: int) -> str:
    images = record.shown(np.asarray(synthetic.images))
    pixels = artefact.to_pixels(images, synthetic.mean, synthetic.std)
    is_image = np.asarray(synthetic.labels) >= 0
    num, ipc = is_image.sum(), is_image.shape[1]
    is_shown = is_image[: len(pixels), : pixels.shape[1]]
    figures = [
        _figure(
            _strip(of_class[keep][None], ipc, f"Images of class {name}"),
            html.escape(name),
        )
        for of_class, keep, name in zip(
            pixels, is_shown, synthetic.class_names, strict=False
        )
    ]
    kind = "Condensed images" if synthetic.indices is None else "Chosen images"
    which = f", set {experiment + 1} of {num_sets}" if num_sets > 1 else ""
    some = is_shown.sum()
    note = "" if some == num else f'<p class="soft">{some} of {num} images.</p>'
    body = f'{note}<div class="classes narrow">{"".join(figures)}</div>'
    if experiment:
        return f"<details><summary>{kind}{which}</summary>{body}</details>"
    return _section(f"{kind}{which}", body)


def _strip(pixels: np.ndarray, ipc: int, text: str) -> str:
    """Returns an `<img>` of images `[c, I, H, W, D]`, a row of ten or fewer a class."""
    height, width = pixels.shape[2:4]
    scale = max((_SINGLE if ipc == 1 else _IMAGE) // max(height, width), 1)
    picture = record.mosaic(pixels, _COLUMNS)
    return _img(record.to_png(picture), text, picture.shape[1] * scale, picture, scale)


def _evolution(snapshots: dict[int, bytes], sets: list[SyntheticSet]) -> str:
    if len(snapshots) < 2:
        return ""
    last = max(snapshots)
    rows, note, size = "", "", _size(snapshots[last])[0] // record.ROW
    if sets:
        shape = record.shown(np.asarray(sets[0].images), record.SNAPSHOT).shape
        names, size = sets[0].class_names[: shape[0]], max(shape[2:4])
        if shape[1] == 1:
            note = f'<p class="soft">Row by row: {_(", ".join(names))}.</p>'
        else:
            rows = "".join(f"<li>{_(name)}</li>" for name in names)
            rows = f'<ol aria-label="Rows">{rows}</ol>'
    scale = max(_IMAGE // max(size, 1), 1)
    pictures = []
    for iteration, png in snapshots.items():
        hidden = "" if iteration == last else " hidden"
        width, height = (scale * size for size in _size(png))
        pictures.append(
            f'<img src="{_uri(png)}" alt="The images after {iteration} iterations" '
            f'width="{width}" height="{height}" data-iteration="{iteration}"{hidden}>'
        )
    return _section(
        "How the images came about",
        '<div class="slider"><label for="iteration">Iterations</label>'
        f'<input id="iteration" type="range" min="0" max="{len(snapshots) - 1}" '
        f'value="{len(snapshots) - 1}"><output for="iteration">after {last} iterations'
        f'</output></div>{note}<div class="evolution">{rows}'
        f"<div>{''.join(pictures)}</div></div>",
    )


def _curves(lines: list[Card]) -> str:
    losses = [line for line in lines if "loss" in line]
    tested = [line for line in lines if "accuracy_mean" in line]
    figures = []
    if losses:
        at = [line["iteration"] for line in losses]
        chart = line_chart(
            {"loss": (at, [line["loss"] for line in losses])},
            label=f"Loss by iteration, {losses[0]['loss']:.4g} at first and "
            f"{losses[-1]['loss']:.4g} at last",
            x_label="iteration",
        )
        figures.append(_figure(chart, "Loss, mean over the sets"))
    if tested:
        mean = 100 * np.array([line["accuracy_mean"] for line in tested])
        std = 100 * np.array([line["accuracy_std"] for line in tested])
        chart = line_chart(
            {"accuracy": ([line["iteration"] for line in tested], mean)},
            label=f"Test accuracy by iteration, {mean[0]:.1f} % at first and "
            f"{mean[-1]:.1f} % at last",
            x_label="iteration",
            spread=(mean - std, mean + std),
        )
        figures.append(
            _figure(chart, "Test accuracy in percent, and its standard deviation")
        )
    layers = [line for line in losses if "layers" in line]
    if layers and len(layers[-1]["layers"]) > 1:
        at = [line["iteration"] for line in layers]
        chart = line_chart(
            {
                name: (at, [line["layers"].get(name, 0) for line in layers])
                for name in layers[-1]["layers"]
            },
            label="Distance of the gradients of each layer by iteration",
            x_label="iteration",
        )
        figures.append(
            _figure(chart, "Matching distance by layer; their sum is the loss")
        )
    if not figures:
        return ""
    return _section("Curves", f'<div class="charts">{"".join(figures)}</div>')


def _confusion(counts: np.ndarray | None, names: Iterable[str]) -> str:
    if counts is None or len(names) != len(counts):
        return ""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = shares * (1 - np.eye(len(counts)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_WORST]
    worst = [divmod(int(place), len(counts)) for place in order]
    items = "".join(
        f"<li>{_(names[i])} taken for {_(names[j])}: {100 * wrong[i, j]:.1f} %</li>"
        for i, j in worst
        if wrong[i, j] > 0
    )
    if len(counts) <= _CELLS:
        matrix = _confusion_table(shares, names)
    else:
        scale = max(480 // len(counts), 1)
        grey = np.rint(255 * shares).astype(np.uint8)[..., None]
        matrix = _img(
            record.to_png(grey),
            "Confusion matrix: the brighter, the more images of the row's class are "
            "taken for the column's",
            *(len(counts) * scale, grey, scale),
        )
    return _section(
        "What is taken for what",
        "<p>Percent of the test images of each class, a row, that the evaluation "
        f"networks take for each class, a column.</p>{matrix}"
        f"<h3>Most frequent mistakes</h3><ol>{items}</ol>",
    )


def _confusion_table(shares: np.ndarray, names: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{_(name)}</th>' for name in names)
    rows = []
    for name, row in zip(names, shares, strict=True):
        cells = "".join(
            f'<td style="--share:{100 * share:.0f}%"'
            f"{' class=much' if share > 0.5 else ''}>{100 * share:.1f}</td>"
            for share in row
        )
        rows.append(f'<tr><th scope="row">{_(name)}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">'
        f'<table class="confusion"><thead><tr><td style="--share:0%"></td>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _neighbours(found: record.Neighbours | None, sets: list[SyntheticSet]) -> str:
    if found is None or not sets or sets[0].images.shape[2:] != found.pixels.shape[2:]:
        return ""
    synthetic = sets[0]
    pixels = artefact.to_pixels(
        record.shown(np.asarray(synthetic.images)), synthetic.mean, synthetic.std
    )
    if pixels.shape != found.pixels.shape or found.labels.max() >= len(
        synthetic.class_names
    ):
        return ""
    figures = []
    for label, name in enumerate(synthetic.class_names[: len(pixels)]):
        some = slice(0, min(_COLUMNS, int(np.sum(synthetic.labels[label] >= 0))))
        both = np.stack([pixels[label, some], found.pixels[label, some]])
        classes = collections.Counter(found.labels[label, some].tolist())
        of = ", ".join(
            f"{synthetic.class_names[c]}" + (f" ({n})" if len(classes) > 1 else "")
            for c, n in classes.most_common()
        )
        distance = found.distances[label, some].mean()
        figures.append(
            _figure(
                _strip(
                    *(both, synthetic.labels.shape[1]),
                    f"Above images of class {name}, below the nearest training images",
                ),
                f"{_(name)}; nearest: {_(of)}<br>"
                f'<span class="soft">distance {distance:.2f}</span>',
            )
        )
    return _section(
        "The nearest training images",
        "<p>Below each image the one of all training images whose pixels are nearest. "
        "The distance is the root of the mean squared difference, where the range of "
        f'a pixel is 1.</p><div class="classes narrow">{"".join(figures)}</div>',
    )


def _evaluations(lines: list[Card]) -> str:
    if not lines:
        return ""
    rows = "".join(
        f"<tr><td>{_(line.get('set', ''))}</td>"
        f"<td>{_(line.get('protocol', {}).get('network', ''))}</td>"
        f"<td>{_(_percent(line))}</td></tr>"
        for line in lines
    )
    return _section(
        "Evaluations since",
        '<div class="scroll" tabindex="0" role="region" aria-label="Evaluations">'
        '<table class="facts"><thead><tr><th scope="col">set</th>'
        '<th scope="col">network</th><th scope="col">test accuracy</th></tr></thead>'
        f"<tbody>{rows}</tbody>"
        "</table></div>",
    )


def _origin(config: Card, card: Card) -> str:
    if not config:
        return ""
    dataset = card.get("dataset", {})
    facts = {
        "Finished": card.get("created"),
        "Seed": config["seed"],
        "Dataset": dataset.get("source", config["dataset"]["name"]),
        "Its SHA-256": dataset.get("checksum"),
        "Its images": dataset
        and f"{dataset['num_train']:,} for training and {dataset['num_test']:,} for "
        f"testing, {'x'.join(map(str, dataset['image_shape']))}, "
        f"{dataset['num_classes']} classes",
        "Evaluation": ", ".join(
            f"{k} {v}" for k, v in card.get("protocol", {}).items()
        ),
        "Versions": ", ".join(f"{k} {v}" for k, v in card.get("versions", {}).items()),
    }
    parts = [
        _table(
            {
                name: value
                for name, value in facts.items()
                if value not in (None, "", {})
            }
        )
    ]
    if "command" in card:
        parts.insert(0, f"<h3>Command</h3><pre>{_(card['command'])}</pre>")
    fields = flatten_dict(config, sep=".")
    parts.append(
        "<details><summary>All fields of the config</summary>"
        f"{_table(fields)}</details>"
    )
    return _section("How it was made", "".join(parts))


def _table(facts: Card) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_(name)}</th><td>{_(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _figure(body: str, caption: str) -> str:
    """Returns a figure; both are HTML already."""
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>"


def _img(png: bytes, text: str, width: int, picture: np.ndarray, scale: int) -> str:
    return (
        f'<img src="{_uri(png)}" alt="{_(text)}" width="{width}" '
        f'height="{picture.shape[0] * scale}">'
    )


def _size(png: bytes) -> tuple[int, int]:
    """Returns width and height in pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        return picture.size


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _percent(accuracy: Card) -> str:
    mean, std = 100 * accuracy["accuracy_mean"], 100 * accuracy["accuracy_std"]
    return f"{mean:.1f} ± {std:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _(value: Any) -> str:
    """Returns a value as text of HTML."""
    return html.escape(str(value))


def _read_json(path: Path) -> Card:
    """Returns a file's dict, an empty one where there is none."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}).") from error


def _read_lines(path: Path) -> list[Card]:
    """Returns the dicts of a file's lines, but one that a killed run left half done."""
    lines = []
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            logging.warning("%s has a damaged line, which is left out.", path)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dc_jax.report", description="Makes the report of a run."
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    folder = Path(parser.parse_args().workdir)
    try:
        print(write(folder))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
