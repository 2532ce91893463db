"""The section with the charts of loss and accuracy by iteration."""

import numpy as np

from dc_jax.report.charts import line_chart
from dc_jax.report.files import Files
from dc_jax.report.markup import figure


def curves(run: Files) -> str:
    """Returns the charts that the run has values for."""
    figures = "".join(chart(run) for chart in CHARTS)
    return f'<div class="charts">{figures}</div>' if figures else ""


def _loss(run: Files) -> str:
    lines = [line for line in run.metrics if "loss" in line]
    if not lines:
        return ""
    values = [line["loss"] for line in lines]
    chart = line_chart(
        {"loss": ([line["iteration"] for line in lines], values)},
        label=f"Loss by iteration, first {values[0]:.4g}, last {values[-1]:.4g}",
        x_label="iteration",
    )
    return figure(chart, "Loss, mean over the sets")


def _accuracy(run: Files) -> str:
    unit, at, mean, std = _tested(run)
    if not at:
        return ""
    mean, std = 100 * np.array(mean), 100 * np.array(std)
    chart = line_chart(
        {"accuracy": (at, mean)},
        label=f"Test accuracy by {unit}, first {mean[0]:.1f} %, last {mean[-1]:.1f} %",
        x_label=unit,
        spread=(mean - std, mean + std),
    )
    return figure(chart, "Test accuracy in percent, and its standard deviation")


def _tested(run: Files) -> tuple[str, list[float], list[float], list[float]]:
    """Returns the unit and the times of the tests, and their means and deviations."""
    every = run.config.get("eval_every")
    if every and "accuracies_on_the_way" in run.result:
        values = np.array(run.result["accuracies_on_the_way"], float)  # [N, tests]
        at = [every * (1 + i) for i in range(values.shape[1])]
        return "epoch", at, list(values.mean(0)), list(values.std(0))
    names = ("iteration", "accuracy_mean", "accuracy_std")
    lines = [line for line in run.metrics if line.keys() >= set(names)]
    if lines and "iterations" in run.result:
        lines.append({**run.result, "iteration": run.result["iterations"]})
    return "iteration", *([line[name] for line in lines] for name in names)


def _layers(run: Files) -> str:
    lines = [line for line in run.metrics if len(line.get("layers", ())) > 1]
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
    return figure(chart, "Matching distance of each layer; their sum is the loss")


# The charts, in order. Each is a function that returns a figure as HTML, or "" for a
# run without its values. A new chart is a line here.
CHARTS = (_loss, _accuracy, _layers)
