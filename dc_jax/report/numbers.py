"""The parts of a report that show numbers: accuracies, curves, confusion, origin."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from dc_jax.config import describe_ipc
from dc_jax.report import markup
from dc_jax.report.charts import line_chart
from dc_jax.report.files import Files
from dc_jax.report.markup import figure, section, text
from dc_jax.report.published import TABLE1, WHOLE
from dc_jax.sets.image_grid import to_png

_METHODS = {
    "dc": "Gradient matching (dc)",
    "dsa": "Gradient matching with Siamese augmentation (dsa)",
    "dm": "Distribution matching (dm)",
    "dd": "Dataset distillation (dd)",
    "whole": "The whole training set (whole)",
}
_CELLS = 20  # Classes of a confusion matrix that is a table of numbers, at most.
_MATRIX = 480  # Pixels of the page that a larger one may take.
_MUCH = 0.8  # Share from which a cell is so dark that its number is white.
_WORST = 10  # Confusions that are listed.


def title(run: Files) -> str:
    """Returns what was condensed, as text."""
    config = run.config
    if not config:
        return "Evaluations of synthetic sets"
    dataset, method = config["dataset"]["name"], config["method"]
    if dataset in ("folder", "npz"):
        dataset = Path(config["dataset"]["path"]).stem
    if method == "whole":
        return f"{dataset}, all training images"
    images = "image" if config["ipc"] == 1 else "images"
    return f"{dataset}, {describe_ipc(config['ipc'])} {images} a class"


def head(run: Files) -> str:
    """Returns the heading, the method and the most important numbers."""
    heading = f"<h1>{text(title(run))}</h1>"
    if not run.config:
        return heading
    state = "" if run.card else "<p>The run has not finished.</p>"
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
        for name, value in _results(run.accuracy).items()
    )
    return (
        f'{heading}<p>{text(_method(run))}.</p>{state}<dl class="numbers">{items}</dl>'
    )


def _method(run: Files) -> str:
    name = run.config["method"]
    return _METHODS.get(name, f"Real images chosen by {name}")


def _results(accuracy: Mapping[str, Any]) -> dict[str, str]:
    results = {}
    if accuracy:
        count = accuracy["num_experiments"] * accuracy["num_evaluations"]
        results["Test accuracy"] = _percent(accuracy)
        results["Networks tested"] = str(count)
    if "own_protocol" in accuracy:
        results["By its own training"] = _percent(accuracy["own_protocol"])
    if "training_images" in accuracy:
        results["Images to train on"] = f"{accuracy['training_images']:,}"
    if "seconds" in accuracy:
        results["Time in all"] = _duration(accuracy["seconds"])
    return results


def published(run: Files) -> str:
    """Returns published accuracies beside the run's, where the two are comparable."""
    if not run.accuracy or not _is_comparable(run.config):
        return ""
    dataset = run.config["dataset"]["name"].removesuffix("_cropped")
    ipc = run.config["ipc"]
    values = {
        method: value
        for (name, num, method), value in TABLE1.items()
        if (name, num) == (dataset, ipc) and run.config["method"] != "whole"
    }
    if dataset in WHOLE:
        values["whole"] = WHOLE[dataset]
    if not values:
        return ""
    rows = [(f"this run: {run.config['method']}", _percent(run.accuracy))]
    rows += [(method, f"{value} %") for method, value in values.items()]
    return section(
        "Beside published accuracies",
        markup.table("Accuracies", ("method", "test accuracy"), rows)
        + '<p class="soft">Zhao, Mopuri and Bilen, 2021, Table 1; dsa and dm as in '
        "their own papers. All with the ConvNet. A question mark: not verified.</p>",
    )


def _is_comparable(config: Mapping[str, Any]) -> bool:
    return (
        config["network"]["name"] == "ConvNet"
        and config["evaluation"].get("network") in (None, "ConvNet")
        and config["dataset"].get("validation") is None
    )


def curves(run: Files) -> str:
    """Returns loss, accuracy and the distance of each layer by iteration."""
    losses = [line for line in run.metrics if "loss" in line]
    figures = [_loss_chart(losses), _accuracy_chart(run), _layer_chart(losses)]
    if not any(figures):
        return ""
    return section("Curves", f'<div class="charts">{"".join(figures)}</div>')


def _loss_chart(losses: list[dict[str, Any]]) -> str:
    if not losses:
        return ""
    values = [line["loss"] for line in losses]
    chart = line_chart(
        {"loss": ([line["iteration"] for line in losses], values)},
        label=f"Loss by iteration, {values[0]:.4g} at first and {values[-1]:.4g} at "
        "last",
        x_label="iteration",
    )
    return figure(chart, "Loss, mean over the sets")


def _accuracy_chart(run: Files) -> str:
    """Returns the accuracy on the way, and in the end."""
    unit, at, mean, std = _tested(run)
    if not at:
        return ""
    mean, std = 100 * np.array(mean), 100 * np.array(std)
    chart = line_chart(
        {"accuracy": (at, mean)},
        label=f"Test accuracy by {unit}, {mean[0]:.1f} % at first and "
        f"{mean[-1]:.1f} % at last",
        x_label=unit,
        spread=(mean - std, mean + std),
    )
    return figure(chart, "Test accuracy in percent, and its standard deviation")


def _tested(run: Files) -> tuple[str, list[int], list[float], list[float]]:
    """Returns when the accuracy was measured, in what, its means and deviations."""
    if run.accuracy.get("accuracies_on_the_way"):
        values = np.array(run.accuracy["accuracies_on_the_way"])  # [N, k]
        at = run.config["eval_every"] * np.arange(1, 1 + values.shape[1])
        return "epoch", list(at), list(values.mean(0)), list(values.std(0))
    lines = [line for line in run.metrics if "accuracy_mean" in line]
    if lines and "iterations" in run.accuracy:
        lines.append({**run.accuracy, "iteration": run.accuracy["iterations"]})
    names = ("iteration", "accuracy_mean", "accuracy_std")
    return "iteration", *([line[name] for line in lines] for name in names)


def _layer_chart(losses: list[dict[str, Any]]) -> str:
    lines = [line for line in losses if len(line.get("layers", ())) > 1]
    if not lines:
        return ""
    at = [line["iteration"] for line in lines]
    chart = line_chart(
        {
            name: (at, [line["layers"].get(name, 0) for line in lines])
            for name in lines[-1]["layers"]
        },
        label="Distance of the gradients of each layer by iteration",
        x_label="iteration",
    )
    return figure(chart, "Matching distance by layer; their sum is the loss")


def confusion(run: Files) -> str:
    """Returns the confusion matrix of the evaluation networks."""
    counts = run.confusion
    names = run.sets[0].class_names if run.sets else ()
    if counts is None or len(names) != len(counts):
        return ""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(counts) <= _CELLS:
        matrix = _confusion_table(shares, names)
    else:
        scale = max(_MATRIX // len(counts), 1)
        grey = np.rint(255 * shares).astype(np.uint8)[..., None]
        matrix = markup.image(
            to_png(grey),
            "Confusion matrix: the brighter, the more images of the row's class are "
            "taken for the column's",
            (len(counts) * scale, len(counts) * scale),
        )
    return section(
        "Confusion matrix",
        "<p>Percent of the test images of each class, a row, that the evaluation "
        f"networks take for each class, a column.</p>{matrix}"
        f"{_mistakes(shares, names)}",
    )


def _mistakes(shares: np.ndarray, names: Sequence[str]) -> str:
    wrong = shares * (1 - np.eye(len(shares)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_WORST]
    items = "".join(
        f"<li>{text(names[i])} taken for {text(names[j])}: {100 * wrong[i, j]:.1f} %"
        "</li>"
        for i, j in (divmod(int(place), len(shares)) for place in order)
        if wrong[i, j] > 0
    )
    return f"<h3>Most frequent mistakes</h3><ol>{items}</ol>" if items else ""


def _confusion_table(shares: np.ndarray, names: Sequence[str]) -> str:
    headings = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    rows = []
    for name, row in zip(names, shares, strict=True):
        cells = "".join(
            f'<td style="--share:{100 * share:.0f}%"'
            f"{' class=much' if share >= _MUCH else ''}>{100 * share:.1f}</td>"
            for share in row
        )
        rows.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return markup.scrolling(
        "Confusion matrix",
        f'<table class="confusion"><thead><tr><td></td>{headings}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
    )


def evaluations(run: Files) -> str:
    """Returns the accuracies that `--mode=evaluate` has measured."""
    if not run.evaluations:
        return ""
    rows = [
        (line["set"], line["protocol"]["network"], _percent(line))
        for line in run.evaluations
    ]
    head = ("set", "network", "test accuracy")
    return section("Evaluations", markup.table("Evaluations", head, rows))


def origin(run: Files) -> str:
    """Returns what it takes to make the run again."""
    if not run.config:
        return ""
    dataset = run.card.get("dataset", {})
    values = {
        "Finished": run.card.get("created"),
        "Seed": run.config["seed"],
        "Dataset": dataset.get("source", run.config["dataset"]["name"]),
        "Its SHA-256": dataset.get("checksum"),
        "Its images": _describe(dataset) if dataset else None,
        "Evaluation": _join(run.card.get("protocol", {})),
        "Versions": _join(run.card.get("versions", {})),
    }
    known = {name: value for name, value in values.items() if value not in (None, "")}
    command = run.card.get("command")
    lines = f"<h3>Command</h3><pre>{_words(command)}</pre>" if command else ""
    fields = markup.facts(flatten_dict(run.config, sep="."))
    return section(
        "How it was made",
        f"{lines}{markup.facts(known)}"
        f"<details><summary>All fields of the config</summary>{fields}</details>",
    )


def _words(command: str) -> str:
    """Returns a command of which a line ends after a word, not within a flag."""
    return " ".join(f"<span>{text(word)}</span>" for word in command.split(" "))


def _describe(dataset: Mapping[str, Any]) -> str:
    shape = "x".join(map(str, dataset["image_shape"]))
    return (
        f"{dataset['num_train']:,} for training and {dataset['num_test']:,} for "
        f"testing, {shape}, {dataset['num_classes']} classes"
    )


def _join(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _percent(accuracy: Mapping[str, Any]) -> str:
    mean, std = 100 * accuracy["accuracy_mean"], 100 * accuracy["accuracy_std"]
    return f"{mean:.1f} ± {std:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
