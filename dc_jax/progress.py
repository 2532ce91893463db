"""How far a piece of work is, told to who waits for it.

On a terminal that is a bar, elsewhere a line of the log from time to time. Work that
takes less than two seconds is not told of. Only the first of several processes tells.
"""

import contextlib
import logging as std_logging
import math
import os
import sys
import threading
import time

import tqdm
from absl import logging

# Seconds without a word: at the beginning; and between two lines of a log, which are
# further apart the longer the work takes.
_QUIET, _FIRST_GAP, _LONGEST_GAP, _GAP = 2.0, 5.0, 60.0, 0.2
_UNITS = (
    (86400, "day", "d"),
    (3600, "hour", "h"),
    (60, "minute", "min"),
    (1, "second", "s"),
)
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}{postfix}"
_NO_TOTAL = "{desc}{postfix}"


class Progress:
    """Tells how far a piece of work is, while it is entered.

    `total` is the number of its parts, or None where it has none: then only the time
    that has passed is told. `first` parts were done before.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        first: int = 0,
        unit: str = "",
        stays: bool = False,
        limit: float = math.inf,
    ):
        """`stays` is whether the bar stays on the terminal at the end.

        About `limit` seconds from now the work ends, whatever is left of it.
        """
        self._title, self._total, self._unit = title, total, unit
        self._done, self._note = first, ""
        self._is_told = _is_first()
        self._is_terminal = sys.stderr.isatty()
        self._stays = stays
        self._end = time.monotonic() + limit
        self._bar: tqdm.tqdm | None = None
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._ended = threading.Event()
        self.restart()

    def __enter__(self) -> "Progress":
        self.restart()
        self._entered = self._began
        if self._is_told:
            _ACTIVE.append(self)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar."""
        self._ended.set()
        if self in _ACTIVE:
            _ACTIVE.remove(self)
            self._thread.join()
        if self._bar is not None:
            self._show()
            self._bar.close()
            _BARS.discard(self._bar)

    def hide(self) -> None:
        """Takes the bar away until it is drawn again, if it is not to stay."""
        if self._bar is not None and not self._stays:
            _BARS.discard(self._bar)
            self._bar.close()
            self._bar = None

    def advance(self, num: int = 1, note: str | None = None) -> None:
        """Counts parts as done; `note` is shown beside the bar from now on."""
        self._done += num
        self._note = self._note if note is None else note

    def restart(self) -> None:
        """Estimates the time that is left from now on, without what has passed."""
        self._began, self._from = time.monotonic(), self._done

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end, None where they are not known."""
        done = self._done - self._from
        if self._total is None or done <= 0:
            return None
        now = time.monotonic()
        left = (self._total - self._done) * (now - self._began) / done
        return min(left, max(self._end - now, 0))

    def _tell(self) -> None:
        """Tells until the work ends: in a thread, since the work may be one call."""
        told = None
        while not self._ended.wait(0.5 if self._is_terminal else 0.2):
            now = time.monotonic()
            # Of several, the innermost tells most.
            if now - self._entered < _QUIET or _ACTIVE[-1:] != [self]:
                continue
            gap = min(max(_GAP * (now - self._entered), _FIRST_GAP), _LONGEST_GAP)
            if self._is_terminal:
                self._show()
            elif told is None or now - told >= gap:
                told = now
                _say(self._line())

    def _show(self) -> None:
        """Draws the bar, or draws it again, in place of those around it."""
        for other in _ACTIVE[:-1]:
            other.hide()
        if self._bar is None:
            _clear_bars_for_lines()
            self._bar = tqdm.tqdm(
                total=self._total,
                unit=self._unit,
                desc=self._title,
                leave=self._stays,
                ncols=_width(),
                nrows=24,  # Bars are few. A terminal without a size has no rows.
                bar_format=_NO_TOTAL if self._total is None else _BAR,
            )
            _BARS.add(self._bar)
        self._bar.n, self._bar.ncols = self._done, _width()
        self._bar.set_postfix_str(self._time(is_short=True), refresh=False)
        self._bar.refresh()

    def _time(self, is_short: bool) -> str:
        """Returns the time that has passed and is left, and the note."""
        passed = describe_seconds(time.monotonic() - self._entered, is_short)
        texts = [passed if is_short else f"after {passed}"]
        if self.seconds_left:
            texts.append(f"about {describe_seconds(self.seconds_left, is_short)} left")
        return ", ".join([*texts, self._note] if self._note else texts)

    def _line(self) -> str:
        text = f"{self._title}: "
        if self._total is not None:
            text += f"{self._done} of {self._total} {self._unit}".rstrip() + " "
        return f"{text}{self._time(is_short=False)}."


def describe_seconds(seconds: float, is_short: bool = False) -> str:
    """Returns a time in words: `12 seconds`, `40 minutes`, `3.5 hours`; or `12 s`."""
    fitting = (one for one in _UNITS if seconds >= 1.5 * one[0])
    size, unit, short = next(fitting, _UNITS[-1])
    number = f"{seconds / size:.{int(size > 60 and seconds < 9.95 * size)}f}"
    number = number.removesuffix(".0")
    if is_short:
        return f"{number} {short}"
    return f"{number} {unit}" if number == "1" else f"{number} {unit}s"


def _is_first() -> bool:
    """Whether this is the first process; there are no others before JAX is there."""
    if "jax" not in sys.modules:
        return True
    from dc_jax.devices import processes  # Not sooner: it imports JAX.

    return processes.is_first()


def _width() -> int:
    """Returns the columns of the terminal; some do not tell theirs."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        columns = 0
    return (columns or 80) - 1


def _say(line: str) -> None:
    """Writes a line to the log, or where that is for errors only, beside it."""
    if logging.get_absl_logger().isEnabledFor(std_logging.INFO):
        logging.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)


# Those that are entered, the innermost last.
_ACTIVE: list[Progress] = []
# The bars on the terminal.
_BARS: set[tqdm.tqdm] = set()


def _clear_bars_for_lines() -> None:
    """Makes lines of the log come above the bars, not into them."""
    handler = logging.get_absl_handler()
    if _clear_bars not in handler.filters:
        handler.addFilter(_clear_bars)


def _clear_bars(_: object) -> bool:
    # Where the terminal is closed there is nothing to clear.
    with contextlib.suppress(OSError):
        for bar in list(_BARS):
            bar.clear()
    return True
