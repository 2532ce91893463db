"""What a run will cost in time, told once from the first iterations."""

import time
from collections.abc import Mapping

from absl import logging

from dc_jax.progress import describe_seconds

# Iterations are measured for so many seconds, and shorter runs are not told of.
_MEASURED, _SHORT = 2.0, 10.0


class Cost:
    """Tells how long the iterations that are left, and evaluating, will take."""

    def __init__(self, evaluating: Mapping[str, float]):
        """`evaluating` are the seconds of all evaluations that are left, by name."""
        self._evaluating, self._is_told = evaluating, False
        self.begin()

    def begin(self) -> None:
        """The iterations begin now."""
        self._began = time.monotonic()

    def tell(self, condensing: float) -> None:
        """Tells the cost once, if enough iterations were measured.

        `condensing` are the seconds that the iterations which are left will take.
        """
        if self._is_told or time.monotonic() - self._began < _MEASURED:
            return
        self._is_told = True
        parts = {"condensing": condensing, **self._evaluating}
        total = sum(parts.values())
        if total > _SHORT:
            texts = [f"{describe_seconds(s)} {name}" for name, s in parts.items() if s]
            text = "The run takes about %s: %s."
            logging.info(text, describe_seconds(total), ", ".join(texts))
