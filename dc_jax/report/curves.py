"""The section with the charts of loss and accuracy by iteration."""

from typing import Any

import numpy as np

from dc_jax.report.accuracy import num_networks
from dc_jax.report.charts import line_chart
from dc_jax.report.files import Files
from dc_jax.report.markup import figure
from dc_jax.report.trend import accuracy_trend, loss_trend


def curves(run: Files) -> str:
    """Returns the charts that the run has values for."""
    figures = "".join(chart(run) for chart in CHARTS)
    return f'<div class="charts">{figures}</div>' if figures else ""


def _lines(run: Files, *names: str) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` that have all these values."""
    return [x for x in run.metrics if all(x.get(name) is not None for name in names)]


def _loss(run: Files) -> str:
    lines = _lines(run, "loss")
    if not lines:
        return ""
    at, values = [x["iteration"] for x in lines], [x["loss"] for x in lines]
    label = f"Loss by iteration, first {values[0]:.4g}, last {values[-1]:.4g}"
    chart = line_chart({"loss": (at, values)}, label=label, x_label="iteration")
    return figure(chart, f"Loss, mean over the sets. {loss_trend(values)}")


def _accuracy(run: Files) -> str:
    trend = ""
    every, by_epoch = run.config.get("eval_every"), "accuracies_on_the_way"
    lines = _lines(run, "accuracy_mean", "accuracy_std")
    if every and run.result.get(by_epoch):
        unit, values = "epoch", np.array(run.result[by_epoch], float)  # [N, tests]
        at = [every * (1 + i) for i in range(values.shape[1])]
        mean, std = 100 * values.mean(0), 100 * values.std(0)
        num = len(values)
    elif lines:
        unit, last = "iteration", run.result.get("iterations")
        lines += [] if last is None else [{**run.result, unit: last}]
        at = [x[unit] for x in lines]
        mean = 100 * np.array([x["accuracy_mean"] for x in lines])
        std = 100 * np.array([x["accuracy_std"] for x in lines])
        num = num_networks(run.result or run.config)
        if last is not None:
            trend = accuracy_trend(at, mean, std, num)
    else:
        return ""
    label = f"Test accuracy by {unit}, first {mean[0]:.1f} %, last {mean[-1]:.1f} %"
    spread = (mean - std, mean + std)
    chart = line_chart({"": (at, mean)}, label=label, x_label=unit, spread=spread)
    more = "" if num == 1 else ", and its standard deviation"
    return figure(chart, f"Test accuracy in percent{more}. {trend}")


def _layers(run: Files) -> str:
    lines = [x for x in _lines(run, "layers") if len(x["layers"]) > 1]
    if not lines:
        return ""
    at, last = [x["iteration"] for x in lines], lines[-1]["layers"]
    values = {name: (at, [x["layers"].get(name, 0) for x in lines]) for name in last}
    label = "Distance of the gradients of each layer by iteration"
    chart = line_chart(values, label=label, x_label="iteration")
    return figure(chart, "Matching distance of each layer; their sum is the loss")


# The charts, in order. Each is a function that returns a figure as HTML, or "" for a
# run without its values. A new chart is a line here.
CHARTS = (_loss, _accuracy, _layers)
