"""How a run is told to stop."""

import contextlib
import contextvars
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax

from dc_jax.devices import processes

# How late the end of a step is noticed, as a fraction of its time.
_LATE = 0.05
_is_guest = contextvars.ContextVar("is_guest", default=False)


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
