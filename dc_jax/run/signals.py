"""How a run is told to stop: Ctrl-C, SIGTERM, or SIGHUP when its terminal closes."""

import contextlib
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax
from absl import logging

from dc_jax.devices import processes

# How late the end of a step is noticed, as a fraction of its time.
_LATE = 0.05
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_is_guest = contextvars.ContextVar("is_guest", default=False)


def tell_saved(iteration: int, folder: Path) -> str:
    """Says in a sentence or two what is saved of a run that is stopped."""
    networks = Path(folder) / "networks"
    if iteration == 0 and networks.exists():
        return f"{networks} has the networks so far; the same command continues."
    if iteration == 0:
        return "Nothing is saved yet; the same command begins again."
    return f"Iteration {iteration} is saved in {folder}; the same command continues."


class Stopped(Exception):  # noqa: N818 - a request that was met, not an error
    """A signal asked the run to stop, and its state is saved."""

    def __init__(self, number: int, iteration: int, unit: str = "iteration"):
        name = signal.Signals(number).name
        super().__init__(
            f"Stopped by {name}; {unit} {iteration} is saved. The same command "
            "continues from there."
        )
        self.number = number
        self.exit_code = 128 + number  # As of a shell.


class StopSignals(contextlib.ExitStack):
    """Notices the signals instead of dying of them, while it is entered."""

    number: int | None = None

    def __enter__(self) -> "StopSignals":
        self.enter_context(_handled_by(self._notice))
        return self

    def _notice(self, number: int, _: FrameType | None) -> None:
        self.number = number

    def wait(self, values: Any) -> bool:
        """Waits for arrays; returns False, without waiting on, once told to stop.

        A blocked wait would not notice a signal before an iteration ends, which can
        take minutes. Several processes must stop together: they wait to the end, and
        all are told to stop where one is.
        """
        began = time.monotonic()
        while self.number is None or processes.are_several():
            if all(leaf.is_ready() for leaf in jax.tree.leaves(values)):
                self.number = processes.largest(self.number or 0) or None
                return self.number is None
            # A short step must not wait for a long sleep.
            waited = time.monotonic() - began
            time.sleep(min(max(_LATE * waited, 1e-4), 0.02))
        return False


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """While entered, signals wait, for short work that is worth much; then they act."""
    with StopSignals() as signals:
        yield
    if signals.number is not None:
        signal.raise_signal(signals.number)


@contextlib.contextmanager
def ends_at_once(tell: Callable[[], str]) -> Iterator[None]:
    """While entered, a signal ends the process at once, with one line.

    The line ends with what `tell` returns, a sentence on what is saved. This is for
    long work whose result is saved only at its end. Python would not notice a signal
    before a program is compiled or has ended, so a thread waits for it. The process of
    another program, see `as_guest`, is left alone.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if _is_guest.get() or not is_main:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=_end_when_told, args=(reader, tell), daemon=True)
    thread.start()
    try:
        # Python calls a handler too late, but writes the signal's number at once.
        with _handled_by(lambda *_: None, writer):
            yield
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)


def _end_when_told(reader: int, tell: Callable[[], str]) -> None:
    while number := os.read(reader, 1):  # Nothing once the other end is closed.
        if number[0] in _SIGNALS:
            name = signal.Signals(number[0]).name
            end_process(128 + number[0], f"Stopped by {name}. {tell()}")


def end_process(code: int, line: str) -> NoReturn:
    """Ends the process at once, with a line."""
    # The terminal of a SIGHUP is closed.
    with contextlib.suppress(OSError):
        logging.info("%s", line)
        logging.flush()
        sys.stdout.flush()
    os._exit(code)


@contextlib.contextmanager
def as_guest() -> Iterator[None]:
    """While entered, the process is another program's, such as a notebook's."""
    token = _is_guest.set(True)
    try:
        yield
    finally:
        _is_guest.reset(token)


def is_guest() -> bool:
    """Whether the process is another program's, see `as_guest`."""
    return _is_guest.get()


@contextlib.contextmanager
def _handled_by(handler: Any, writer: int = -1) -> Iterator[None]:
    """Lets a function handle the signals, and their numbers be written to a file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _SIGNALS:
        # nohup makes a process deaf to the end of its terminal.
        is_deaf = number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
        if not is_deaf:
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(wakeup)
