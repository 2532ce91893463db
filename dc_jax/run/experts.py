"""Experts: networks trained on the whole training set, at several ages.

A method names the ages as `Method.snapshots`. The networks are trained one after
another, and kept for other runs like those that coresets need, with a file for each
age. In the store they are vectors, see `ravel_pytree`.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.flatten_util import ravel_pytree

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.devices import processes
from dc_jax.errors import UserError
from dc_jax.evaluation.protocol import Protocol
from dc_jax.files.content import read_npz, write_npz
from dc_jax.run.baselines import train_by_phases
from dc_jax.run.full_data_trainer import EpochHook, WholeTrainer, check_finite
from dc_jax.run.setup import Setup
from dc_jax.training.full_data import WholeState

Made = tuple[list[SyntheticSet], dict[str, Any]]


def condense_with_experts(
    setup: Setup,
    folder: Path,
    snapshots: tuple[int, ...],
    condense: Callable[[np.ndarray], Made],
) -> Made:
    """Returns what `condense` makes of experts `[E, S, P]`; see `Method.snapshots`.

    The time of condensing includes that of training them.

    Raises:
      Stopped: by a signal while they are trained; the state is saved.
      UserError: the file of a snapshot is missing or damaged.
    """
    experts, seconds = train_experts(setup, folder, snapshots)
    sets, facts = condense(experts)
    return sets, facts | {"seconds_condense": facts["seconds_condense"] + seconds}


def train_experts(
    setup: Setup, folder: Path, snapshots: tuple[int, ...]
) -> tuple[np.ndarray, float]:
    """Trains the experts of a run, or finds them trained.

    Returns:
      Their variables, `[E, S, P]` float32, and the seconds of training them all.
    """
    config, dataset, execution = setup.config, setup.dataset, setup.execution
    protocol = make_expert_protocol(config)
    num = config.experts.number
    logging.info("Experts: %d, each %s.", num, protocol)

    def keep(of_network: Path, epoch: int, state: WholeState) -> None:
        if epoch in snapshots:
            vector, _ = ravel_pytree(jax.device_get(state.network.variables))
            arrays = {"variables": np.asarray(vector, np.float32)}
            processes.on_first(write_npz, _path(of_network, epoch), arrays)

    trainer = WholeTrainer(
        config,
        folder,
        dataset,
        execution,
        protocol,
        train_by_phases(protocol, setup.network, execution, dataset),
        check=functools.partial(check_finite, field="config.experts.lr"),
        hook=EpochHook({"snapshots": list(snapshots)}, keep),
    )
    experts, seconds = [], 0.0
    for number in range(num):
        trained = trainer.train(number, num)
        seconds += trained.seconds
        leaves = jax.tree.leaves(trained.state.network.variables)
        size = sum(leaf.size for leaf in leaves)
        paths = [_path(trainer.folder(number), epoch) for epoch in snapshots]
        experts.append(processes.on_first(_read, paths, size))
    return np.stack(experts), seconds


def make_expert_protocol(config: Config) -> Protocol:
    """Returns how experts are trained: by plain SGD, augmented as the method augments.

    The learning rate stays the same. This is what MTT's authors do (buffer.py of their
    code).
    """
    return Protocol(
        network=config.network.name,
        epochs=config.experts.epochs - 1,  # A protocol runs one more.
        augmentation=config.training_augmentation,
        lr=config.experts.lr,
        momentum=0.0,
        weight_decay=0.0,
        batch_size=256,
        schedule="constant",
    )


def _path(of_network: Path, epoch: int) -> Path:
    return of_network / f"epoch_{epoch}.npz"


def _read(paths: list[Path], size: int) -> np.ndarray:
    """Returns the snapshots of a network of `size` values, `[S, P]`."""
    try:
        return np.stack([_read_one(path, size) for path in paths])
    except UserError as error:
        folder = paths[0].parent
        raise UserError(
            f"{error} Delete the folder {folder} to train this network again."
        ) from error


def _read_one(path: Path, size: int) -> np.ndarray:
    """Returns a snapshot, `[P]`."""
    if not path.exists():
        raise UserError(f"{path} is missing.")
    vector = read_npz(path, ["variables"])["variables"]
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise UserError(f"{path} is damaged: it must have {size} finite values.")
    return vector
