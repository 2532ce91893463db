"""What a run tells while it runs: a progress bar, and the metrics of each iteration."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.devices import processes
from dc_jax.files.content import read_json_lines, write_atomically
from dc_jax.progress import Progress
from dc_jax.report import kept
from dc_jax.report.accuracy import spread
from dc_jax.run.cost import Cost
from dc_jax.run.tensorboard import Events

_NAME = "metrics.jsonl"


class Metrics:
    """What the first process tells of each iteration, and keeps.

    These are lines of `metrics.jsonl`, the progress bar, `snapshots/`, and
    `tensorboard/` where that is wanted. Other processes write nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first: int,
        total: int,
        seconds: float = 0.0,
        minutes: float | None = None,
        evaluating: Mapping[str, float] | None = None,
        tensorboard: bool = False,
    ):
        """Drops losses and snapshots after `first`, and the accuracies from it on.

        A run that continues there does these again; it took `seconds` up to there, and
        ends after so many `minutes`, if it has not made all iterations before.
        `evaluating` are the seconds of what comes after the iterations, see `Cost`.
        """
        self._folder, self._is_first = folder, processes.is_first()
        path = folder / _NAME if self._is_first else Path(os.devnull)
        before = []
        if path.is_file():
            before = read_metrics(folder, first)
            text = "".join(json.dumps(line) + "\n" for line in before)
            write_atomically(path, text.encode())
        self._path = path
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if self._is_first:
            kept.drop_snapshots(folder, first)
        is_told = tensorboard and self._is_first
        self._events = Events(folder, before, seconds) if is_told else None
        self._began = time.monotonic() - seconds
        limit = math.inf if minutes is None else max(60 * minutes - seconds, 0)
        self._cost = Cost(evaluating or {})
        self._bar = Progress(
            *("Condensing", total),
            first=first,
            unit="iterations",
            stays=True,
            limit=limit,
        )

    def __enter__(self) -> "Metrics":
        return self

    def begin(self) -> None:
        """Shows the bar. Only from now on, after all is compiled, the time counts."""
        self._cost.begin()
        self._bar.__enter__()

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._file.close()
        if self._events:
            self._events.close()

    def loss(
        self, iteration: int, losses: np.ndarray, more: dict[str, Any] | None = None
    ) -> None:
        """Records the losses `[E]` of an iteration, and its other metrics, means."""
        more = more or {}
        loss = float(losses.mean())
        self._write(iteration, loss=loss, losses=losses.tolist(), **more)
        self._bar.advance(note=f"loss {loss:.4g}")
        self._cost.tell(self._bar.seconds_left)

    def accuracy(self, iteration: int, accuracies: np.ndarray) -> None:
        """Records and logs the accuracies `[E, N]` after an iteration."""
        mean, std = accuracies.mean(), accuracies.std()
        self._write(iteration, accuracy_mean=float(mean), accuracy_std=float(std))
        text = f"{mean:.2%}{spread(std, accuracies.size, 2)}"
        logging.info("Iteration %d: accuracy %s.", iteration, text)

    def images(self, iteration: int, make_set: Callable[[], SyntheticSet]) -> None:
        """Keeps a snapshot of the set after some iterations, which alone is made."""
        if not (self._is_first and kept.is_snapshot(iteration)):
            return
        png = kept.snapshot(make_set())
        kept.save_snapshot(self._folder, iteration, png)
        if self._events:
            self._events.picture(iteration, png)

    def _write(self, iteration: int, **values: Any) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        line = {"iteration": iteration, "seconds": seconds, **values}
        if self._events:
            self._events.scalars(line)
        self._check_is_there()
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            error.filename = self._file.name  # A full disk does not say where it is.
            raise

    def _check_is_there(self) -> None:
        """Raises a `FileNotFoundError` if the file was deleted or moved."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno())):
                return
        raise FileNotFoundError(
            f"{self._path} was deleted or moved during the run, which ends here: the "
            "last checkpoint, if it is still there, is intact."
        )


def read_metrics(folder: Path, first: int) -> list[dict[str, Any]]:
    """Returns the lines that a run keeps which continues after iteration `first`."""
    path = folder / _NAME
    lines = read_json_lines(path) if path.is_file() else []
    return [line for line in lines if _is_kept(line, first)]


def _is_kept(line: dict[str, Any], first: int) -> bool:
    """Whether a line is sound, and not of what will be redone."""
    iteration = line.get("iteration")
    return type(iteration) is int and iteration < first + ("loss" in line)
