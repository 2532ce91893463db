"""What a run will cost in time, told once from the first iterations."""

import time

from absl import logging

from dc_jax.progress import describe_seconds

# Iterations are measured for so many seconds, and shorter runs are not told of.
_MEASURED, _SHORT = 2.0, 10.0


class Cost:
    """Tells how long the iterations that are left, and evaluating, will take."""

    def __init__(self, iterations: int, evaluating: float):
        """`evaluating` are the seconds of all evaluations that are left."""
        self._iterations, self._evaluating = iterations, evaluating
        self._done, self._is_told = 0, False
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
        if condensing + self._evaluating > _SHORT:
            logging.info(
                "The run takes about %s: %s condensing, %s evaluating.",
                describe_seconds(condensing + self._evaluating),
                describe_seconds(condensing),
                describe_seconds(self._evaluating),
            )
