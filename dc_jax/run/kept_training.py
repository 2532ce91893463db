"""A training on the whole training set that goes on from its last checkpoint."""

import dataclasses
import importlib.metadata
import time
from typing import Any

import dc_jax
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices import processes
from dc_jax.evaluation.protocol import Protocol
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.training.full_data import WholeState

# They draw the random numbers, and networks are made and trained with them.
_PACKAGES = ("jax", "flax", "optax", "numpy")


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


def made_with(
    config: Config, dataset: Dataset, protocol: Protocol, eval_every: int
) -> dict[str, Any]:
    """Returns all that trained networks and their features depend on.

    The devices, and the fields of `config.execution` but for `dtype`, only change how
    results are rounded, so they are left out.
    """
    zca = {} if dataset.whitening is None else {"zca": True}
    return zca | {
        "seed": config.seed,
        "dataset": dataset.checksum(),
        "num_classes": dataset.num_classes,
        "mean": dataset.mean.tolist(),
        "std": dataset.std.tolist(),
        "dtype": config.execution.dtype,
        "protocol": dataclasses.asdict(protocol),
        "eval_every": eval_every,
        "dc_jax": dc_jax.__version__,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
