"""What a run tells while it runs, and how it is told to stop."""

import contextlib
import contextvars
import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
import tqdm
from absl import logging

from dc_jax import hosts, record
from dc_jax.artefact import write_atomically
from dc_jax.base import SyntheticSet
from dc_jax.tensorboard import Events

_NONE: Mapping[str, float] = types.MappingProxyType({})
_is_guest = contextvars.ContextVar("is_guest", default=False)


class Stopped(Exception):  # noqa: N818 - a request that was met, not an error
    """A signal asked the run to stop, and its state is saved.

    Attributes:
      number: of the signal.
      exit_code: for the shell, 128 + the signal's number.
    """

    def __init__(self, number: int, iteration: int, unit: str = "iteration"):
        name = signal.Signals(number).name
        super().__init__(
            f"Stopped by {name}; {unit} {iteration} is saved. The same command "
            "continues from there."
        )
        self.number = number
        self.exit_code = 128 + number


class StopSignals:
    """Notices SIGTERM and Ctrl-C instead of dying of them, while it is entered."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers = _handled_by(self._notice)

    def __enter__(self) -> "StopSignals":
        self._handlers.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._handlers.__exit__(*error)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.number = number

    def wait(self, values: Any) -> bool:
        """Waits for arrays; returns False, without waiting on, once told to stop.

        A blocked wait would not notice a signal before an iteration ends, which can
        take minutes. Of several processes all must stop together: they wait, and are
        told to stop where one is.
        """
        pause = 1e-4
        while self.number is None or hosts.are_several():
            if all(leaf.is_ready() for leaf in jax.tree.leaves(values)):
                self.number = hosts.largest(self.number or 0) or None
                return self.number is None
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return False


def signals_kill() -> contextlib.AbstractContextManager[None]:
    """While entered, SIGTERM and Ctrl-C end the process at once.

    For long work after all is saved: Python would not notice them before a compiled
    program ends. The process of another program, see `as_guest`, is left alone.
    """
    return contextlib.nullcontext() if _is_guest.get() else _handled_by(signal.SIG_DFL)


@contextlib.contextmanager
def as_guest() -> Iterator[None]:
    """While entered, the process is another program's, such as a notebook's."""
    token = _is_guest.set(True)
    try:
        yield
    finally:
        _is_guest.reset(token)


@contextlib.contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def progress_bar(total: int, first: int, *, unit: str, title: str) -> tqdm.tqdm:
    """Returns a bar that begins at `first`; only the first process shows it."""
    return tqdm.tqdm(
        total=total,
        initial=first,
        unit=unit,
        desc=title,
        disable=not hosts.is_first(),
        dynamic_ncols=True,
        # A log file should not get a line every tenth of a second.
        mininterval=0.1 if sys.stderr.isatty() else 30,
    )


class Metrics:
    """What the first process tells of each iteration, and keeps.

    Lines of `metrics.jsonl`, the progress bar, `snapshots/`, and `tensorboard/` where
    that is wanted. Nothing comes of it on other processes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first: int,
        total: int,
        seconds: float = 0.0,
        tensorboard: bool = False,
    ):
        """Begins, dropping what a run that continues after `first` redoes.

        Those are losses and snapshots after `first`, and the accuracy from `first` on.
        `seconds` is the time that the run took up to there.
        """
        self._folder, self._is_first = folder, hosts.is_first()
        path = folder / "metrics.jsonl" if self._is_first else Path(os.devnull)
        kept = []
        if path.is_file():
            lines = map(_parse, path.read_bytes().splitlines())
            kept = [line for line in lines if line and _is_kept(line, first)]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            write_atomically(path, text.encode())
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if self._is_first:
            record.drop_snapshots(folder, first)
        is_told = tensorboard and self._is_first
        self._events = Events(folder, kept, seconds) if is_told else None
        self._began = time.monotonic() - seconds
        self._bar = progress_bar(total, first, unit="it", title="Condensing")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._file.close()
        if self._events:
            self._events.close()

    def loss(
        self, iteration: int, losses: np.ndarray, layers: Mapping[str, float] = _NONE
    ) -> None:
        """Records the losses `[E]` of an iteration, and their mean's summands."""
        values = {"loss": float(losses.mean()), "losses": losses.tolist()}
        if layers:
            values["layers"] = dict(layers)
        self._write(iteration, **values)
        self._bar.set_postfix(loss=f"{losses.mean():.4g}", refresh=False)
        self._bar.update()

    def accuracy(self, iteration: int, accuracies: np.ndarray) -> None:
        """Records and logs the accuracies `[E, N]` after an iteration."""
        mean, std = accuracies.mean(), accuracies.std()
        self._write(iteration, accuracy_mean=float(mean), accuracy_std=float(std))
        self._bar.clear()
        logging.info(
            "Iteration %d: accuracy %.2f%% ± %.2f.", iteration, 100 * mean, 100 * std
        )
        self._bar.refresh()

    def images(self, iteration: int, make_set: Callable[[], SyntheticSet]) -> None:
        """Keeps a snapshot of the set after some iterations, which alone is made."""
        if not (self._is_first and record.is_snapshot(iteration)):
            return
        png = record.to_png(record.snapshot(make_set()))
        record.save_snapshot(self._folder, iteration, png)
        if self._events:
            self._events.picture(iteration, png)

    def _write(self, iteration: int, **values: Any) -> None:
        line = {
            "iteration": iteration,
            "seconds": round(time.monotonic() - self._began, 3),
            **values,
        }
        if self._events:
            self._events.scalars(line)
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            error.filename = self._file.name  # A full disk does not say where it is.
            raise


def _is_kept(line: dict[str, Any], first: int) -> bool:
    return line["iteration"] < first + ("loss" in line)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns a line's values, None for one torn by a kill or otherwise damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_sound = isinstance(values, dict) and type(values.get("iteration")) is int
    return values if is_sound else None
