"""A training on the whole training set that goes on from its last checkpoint."""

import time
from typing import Any

from dc_jax.devices import processes
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.training.full_data import WholeState


class KeptTraining:
    """How far a training is, from its last checkpoint."""

    def __init__(
        self, checkpointer: Checkpointer, state: WholeState, made_with: dict[str, Any]
    ):
        self._checkpointer, self._made_with = checkpointer, made_with
        restored = checkpointer.restore(state)
        self.step, self.state, meta = restored or (0, state, {})  # Batches so far.
        # On the test split, so far; see `WholeTrainer.test`.
        self.accuracies: list[Any] = meta.get("accuracies", [])
        self._saved = time.monotonic()
        self._began = self._saved - meta.get("seconds", 0.0)

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def save(self, minutes: float = 0.0) -> None:
        """Saves where `minutes` have passed since the last time."""
        if time.monotonic() - self._saved < 60 * minutes:
            return
        meta = {
            "seconds": self.seconds(),
            "accuracies": self.accuracies,
            "made_with": self._made_with,
        }
        # The other processes wait until the first has written it.
        processes.on_first(self._checkpointer.save, self.step, self.state, meta)
        self._saved = time.monotonic()
