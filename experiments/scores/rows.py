"""The sets that are scored: those of files, and baselines with as many images."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dc_jax.base import SyntheticSet, stored_bytes
from dc_jax.config import Config, describe_ipc
from dc_jax.data.dataset import Dataset
from dc_jax.errors import UserError
from dc_jax.methods.coresets import SELECTIONS
from dc_jax.run.baselines import check_baseline, choose_sets
from dc_jax.run.checks import check_fit
from dc_jax.run.load_sets import load_sets
from dc_jax.run.setup import make_setup
from dc_jax.sets import set_file

# What every set is compared with; and what one with soft labels is, if it was made.
RANDOM, RANDOM_SOFT = "random", "random_soft"


@dataclasses.dataclass(frozen=True)
class Row:
    """What is scored: a set, or several that were made in the same way."""

    name: str
    sets: list[SyntheticSet]
    method: str | None = None  # Of a baseline.

    @property
    def class_ipc(self) -> tuple[int, ...]:
        """The images of each class, `[C]`."""
        return tuple((np.asarray(self.sets[0].labels) >= 0).sum(axis=1).tolist())

    @property
    def has_soft_labels(self) -> bool:
        return self.sets[0].soft_labels is not None

    def facts(self) -> dict[str, Any]:
        """Returns what is told of the row besides accuracies."""
        num, shape = sum(self.class_ipc), self.sets[0].images.shape[2:]
        num_soft = len(self.class_ipc) if self.has_soft_labels else 0
        return {
            "name": self.name,
            "method": self.method,
            "class_ipc": list(self.class_ipc),
            "ipc": describe_ipc(self.class_ipc),
            "sets": len(self.sets),
            "images": num,
            "soft_labels": self.has_soft_labels,
            "bytes": stored_bytes(num, shape, num_soft),
        }

    def checksum(self) -> str:
        """Returns the SHA-256 of all that networks are trained on."""
        digest = hashlib.sha256()
        for one in self.sets:
            arrays = [one.images, one.labels, one.soft_labels, one.mean, one.std]
            arrays += jax.tree.leaves(one.whitening)
            digest.update(str(one.factor).encode())
            for array in arrays:
                digest.update(b"" if array is None else np.asarray(array).tobytes())
        return digest.hexdigest()


def load_rows(paths: Iterable[str], dataset: Dataset) -> list[Row]:
    """Returns a row for each file, or folder of a run.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: a set is unusable, or not of this dataset.
    """
    rows = []
    for path in dict.fromkeys(paths):
        sets = load_sets(path, dataset.name)
        for one in sets:
            check_fit(one, dataset, path)
        rows.append(Row(path, sets))
    return rows


def check_baselines(methods: Iterable[str]) -> None:
    """Raises a `UserError` unless these are methods that choose real images."""
    for name in methods:
        if name not in SELECTIONS:
            raise UserError(
                f"--baselines must be among {', '.join(SELECTIONS)}, got {name!r}."
            )


def make_baselines(
    values: Mapping[str, Any],
    methods: Iterable[str],
    rows: Iterable[Row],
    dataset: Dataset,
    folder: Path,
) -> list[Row]:
    """Returns rows of methods that choose real images, as many as each row has.

    Of random images every network has its own: sets differ more than networks do. What
    was made before is found in the folder.

    Args:
      values: of the config, whose method and images per class are ignored.
      methods: of `SELECTIONS`; `random` is added.
      rows: of other sets.
      dataset: to choose from.
      folder: for the sets, and the networks that methods need.

    Raises:
      UserError: a class has too few images, or the config is unusable.
      Stopped: by a signal; networks that methods need are saved.
    """
    made = []
    for class_ipc in dict.fromkeys(row.class_ipc for row in rows):
        ipc: Any = class_ipc if len(set(class_ipc)) > 1 else class_ipc[0]
        for method in dict.fromkeys([RANDOM, *methods]):
            num = values["num_evaluations"] if method == RANDOM else 1
            changes = {"method": method, "ipc": ipc, "num_experiments": num}
            name = f"{method}, {describe_ipc(class_ipc)} per class"
            config = Config.create({**values, **changes})
            made.append(Row(name, _make(config, dataset, folder), method))
    return made


def _make(config: Config, dataset: Dataset, folder: Path) -> list[SyntheticSet]:
    """Returns the sets of a baseline, in a folder that is named after its config."""
    text = json.dumps([config.to_dict(), dataset.checksum()], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = folder / f"{config.method}-{digest}"
    if not (folder / set_file.SET_NAME).exists():  # Written last.
        setup = make_setup(config, dataset)
        check_baseline(setup)
        sets, _ = choose_sets(setup, folder)
        for place in reversed(range(len(sets))):
            set_file.save_synthetic_set(folder / set_file.set_name(place), sets[place])
    return set_file.load_synthetic_sets(folder)
