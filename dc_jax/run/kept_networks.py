"""Keeps networks that were trained on the whole training set, and their features.

Each network has a folder with its checkpoint. The name of the folder above it tells
what the networks in it were made with, so that another run finds those it needs.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices import processes
from dc_jax.evaluation.protocol import Protocol
from dc_jax.files import read_npz, write_npz
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.training.full_data import WholeState

# They draw the random numbers, and networks are made and trained with them.
_PACKAGES = ("jax", "flax", "optax", "numpy")


def made_with(
    config: Config, dataset: Dataset, protocol: Protocol, eval_every: int
) -> dict[str, Any]:
    """Returns all that trained networks and their features depend on.

    The devices, and the fields of `config.execution` but for `dtype`, only change how
    results are rounded, so they are left out.
    """
    return {
        "seed": config.seed,
        "dataset": dataset.checksum(),
        "num_classes": dataset.num_classes,
        "mean": dataset.mean.tolist(),
        "std": dataset.std.tolist(),
        "dtype": config.execution.dtype,
        "protocol": dataclasses.asdict(protocol),
        "eval_every": eval_every,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def folder_name(made_with: dict[str, Any]) -> str:
    """Returns the name of the folder of the networks that were made with this."""
    text = json.dumps(made_with, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep_arrays(
    path: Path, names: Sequence[str], make: Callable[[], Sequence[np.ndarray]]
) -> list[np.ndarray]:
    """Returns the arrays of an `.npz`. Makes and writes them where it has none."""
    if path.exists():
        try:
            arrays = read_npz(path, names)
            return [arrays[name] for name in names]
        except ValueError as error:
            logging.warning("%s It is made again.", error)
    made = make()
    write_npz(path, dict(zip(names, made, strict=True)))
    return list(made)


class Progress:
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
