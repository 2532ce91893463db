"""When a run has made enough iterations, though not all.

Either the minutes that it may take are over, or what it reads is level. That is the
accuracy on held-out training images, where it is measured on the way, and otherwise the
matching loss. It is never the accuracy on test images.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dc_jax.base import CondenseState
from dc_jax.config import Config
from dc_jax.devices import processes
from dc_jax.run.metrics import read_metrics


class Enough(Exception):  # noqa: N818 - no error
    """There have been enough iterations, and this is the state after them."""

    def __init__(self, iteration: int, state: CondenseState):
        super().__init__(f"iteration {iteration} is the last")
        self.iteration, self.state = iteration, state


class Patience:
    """Notes what a run reads, and says when that is enough."""

    def __init__(self, config: Config, folder: Path, first: int, seconds: float):
        """Begins with what `metrics.jsonl` has of the iterations up to `first`.

        They took `seconds`.
        """
        self._patience, self._minutes = config.patience, config.minutes
        self._done, self._seconds = first, seconds
        is_held_out = bool(config.eval_every and config.dataset.validation)
        self._name = "accuracy_mean" if is_held_out else "loss"
        # One process writes the file, and all stop together.
        before = processes.on_first(_read, folder, first, self._name)
        self._values: dict[int, float] = dict(before)

    def note(self, iteration: int, seconds: float, **values: float) -> None:
        """Notes `loss` or `accuracy_mean` after an iteration; it needs one of them.

        `seconds` is what all iterations have taken up to it.
        """
        self._done = iteration
        if self._minutes is not None:  # All stop together, by the clock furthest on.
            self._seconds = processes.largest(math.ceil(seconds))
        if self._name in values:
            self._values[iteration] = values[self._name]

    def reason(self) -> str | None:
        """Returns why there have been enough iterations, None if there have not."""
        minutes, num = self._minutes, self._patience
        if minutes is not None and self._done and self._seconds >= 60 * minutes:
            return f"the {minutes:g} minutes for condensing are over"
        if num is None:
            return None
        if self._name == "loss" and is_level(self._values, num):
            return f"the mean loss of {num} iterations is not below the {num} before"
        if self._name != "loss" and is_past_best(self._values, num):
            return f"the accuracy on held-out images has not risen for {num} iterations"
        return None


def _read(folder: Path, first: int, name: str) -> list[list[float]]:
    lines = read_metrics(folder, first)
    return [[line["iteration"], line[name]] for line in lines if name in line]


def is_level(losses: Mapping[int, float], num: int) -> bool:
    """Whether the mean of the last `num` losses is not below that of the `num` before.

    The losses are by iteration. It is asked after each `num` iterations, and False
    between them, so that noise has fewer chances.
    """
    last = max(losses, default=0)
    of_both = range(last - 2 * num + 1, last + 1)
    if last % num or not all(i in losses for i in of_both):
        return False
    before, now = np.array([losses[i] for i in of_both]).reshape(2, num).mean(axis=1)
    return bool(now >= before)


def is_past_best(accuracies: Mapping[int, float], num: int) -> bool:
    """Whether the best accuracy, by iteration, is `num` iterations or more ago."""
    if not accuracies:
        return False
    best = max(accuracies.values())
    first = min(i for i, accuracy in accuracies.items() if accuracy == best)
    return max(accuracies) - first >= num
