"""What a run will cost in time, told once from the first iterations."""

import math
import time
from collections.abc import Mapping

from absl import logging

from dc_jax.progress import describe_seconds

# Iterations are measured for so many seconds, and shorter runs are not told of.
_MEASURED, _SHORT = 2.0, 10.0


class Cost:
    """Tells how long the iterations that are left, and evaluating, will take."""

    def __init__(
        self,
        iterations: int,
        evaluating: Mapping[str, float],
        limit: float = math.inf,
    ):
        """`evaluating` are the seconds of all evaluations that are left, by name.

        Condensing ends after about `limit` seconds, whatever is left of it.
        """
        self._iterations, self._evaluating = iterations, evaluating
        self._done, self._is_told = 0, False
        self._end = time.monotonic() + limit
        self.begin()

    def begin(self) -> None:
        """Measures from now on."""
        self._began = time.monotonic()

    def count(self) -> None:
        """Counts an iteration; tells the cost once enough of them are measured."""
        self._done += 1
        seconds = time.monotonic() - self._began
        if self._is_told or seconds < _MEASURED:
            return
        self._is_told = True
        condensing = (self._iterations - self._done) * seconds / self._done
        condensing = min(condensing, max(self._end - time.monotonic(), 0))
        parts = {"condensing": condensing, **self._evaluating}
        total = sum(parts.values())
        if total > _SHORT:
            texts = [f"{describe_seconds(s)} {name}" for name, s in parts.items() if s]
            text = "The run takes about %s: %s."
            logging.info(text, describe_seconds(total), ", ".join(texts))
