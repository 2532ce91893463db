"""Keeps networks that were trained on the whole training set, and their features.

Each network has a folder with its checkpoint. The name of the folder above it tells
what the networks in it were made with, so that another run finds those it needs.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices import processes
from dc_jax.evaluation.protocol import Protocol
from dc_jax.files import read_npz, write_npz
from dc_jax.run import workdir
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


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Waits for other processes that train this network, and keeps them out."""
    with contextlib.ExitStack() as stack:
        locked = workdir.locked(folder, waits=True)
        processes.on_first(lambda: stack.enter_context(locked))
        yield


def keep_arrays(
    path: Path, names: Sequence[str], make: Callable[[], tuple[np.ndarray, ...]]
) -> tuple[np.ndarray, ...]:
    """Returns the arrays of a file. Makes and writes them where it has none.

    Args:
      path: of the `.npz`.
      names: of the arrays.
      make: returns them.
    """
    if path.exists():
        try:
            arrays = read_npz(path, names)
            return tuple(arrays[name] for name in names)
        except ValueError as error:
            logging.warning("%s It is made again.", error)
    made = make()
    write_npz(path, dict(zip(names, made, strict=True)))
    return made


class Progress:
    """How far a training is, from its last checkpoint.

    Attributes:
      state: the last.
      step: batches so far.
      accuracies: on the test split, so far; see `WholeTrainer.test`.
    """

    def __init__(self, config: Config, checkpointer: Checkpointer, state: WholeState):
        self._config, self._checkpointer = config, checkpointer
        restored = checkpointer.restore(state)
        self.state = state if restored is None else restored.state
        self.step = 0 if restored is None else restored.step
        meta = {} if restored is None else restored.meta
        self.accuracies: list[Any] = meta.get("accuracies", [])
        before = meta.get("seconds", 0.0)
        self._began, self._saved = time.monotonic() - before, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def save_in_time(self, made_with: dict[str, Any]) -> None:
        """Saves where `config.checkpoint_minutes` have passed."""
        if time.monotonic() - self._saved >= 60 * self._config.checkpoint_minutes:
            self.save(made_with)

    def save(self, made_with: dict[str, Any]) -> None:
        meta = {
            "seconds": self.seconds(),
            "accuracies": self.accuracies,
            "made_with": made_with,
        }
        # The other processes wait until the first has written it.
        processes.on_first(self._checkpointer.save, self.step, self.state, meta)
        self._saved = time.monotonic()
