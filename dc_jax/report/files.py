"""What a report is made of: the files in the folder of a run."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.errors import UserError, one_line
from dc_jax.report import kept
from dc_jax.sets import set_file

T = TypeVar("T")
# Of a config, what the report cannot do without.
_FIELDS = {"method", "seed", "ipc", "dataset", "network", "evaluation"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """What the folder of a run holds. What is missing or damaged is empty or None.

    Attributes:
      config: of `card.json` or else `config.json`, nested.
      card: `card.json`; empty where the run has not finished.
      sets: of its experiments.
      metrics: the lines of `metrics.jsonl`.
      evaluations: the lines of `evaluations.jsonl`.
      snapshots: PNGs by iteration.
      confusion: counts `[C, C]`.
      neighbours: of the images of the first set that are shown.
    """

    config: Mapping[str, Any]
    card: Mapping[str, Any]
    sets: list[SyntheticSet]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    snapshots: Mapping[int, bytes]
    confusion: np.ndarray | None
    neighbours: kept.Neighbours | None

    @property
    def accuracy(self) -> Mapping[str, Any]:
        """What the card says of it, as in `result.json`."""
        return self.card.get("accuracy", {})


def read_files(folder: Path) -> Files:
    """Reads the files of a run; logs which are damaged.

    Raises:
      OSError: the card or the config cannot be read.
      UserError: they are damaged, or there is no run in the folder.
    """
    card = _read_json(folder / "card.json")
    config = card.get("config") or _read_json(folder / "config.json")
    if config and not (isinstance(config, dict) and set(config) >= _FIELDS):
        name = "card.json" if card else "config.json"
        raise UserError(f"{folder / name} is damaged (it has no config of a run).")
    evaluations = _if_intact(_read_lines, folder / "evaluations.jsonl", [])
    if not config and not evaluations:
        raise UserError(
            f"{folder} holds no run: there is no card.json, config.json or "
            "evaluations.jsonl in it."
        )
    has_sets = (folder / set_file.SET_NAME).exists()
    load_sets = set_file.load_synthetic_sets
    return Files(
        config=config,
        card=card,
        sets=_if_intact(load_sets, folder, []) if has_sets else [],
        metrics=_if_intact(_read_lines, folder / "metrics.jsonl", []),
        evaluations=evaluations,
        snapshots=_if_intact(kept.read_snapshots, folder, {}),
        confusion=_if_intact(kept.read_confusion, folder, None),
        neighbours=_if_intact(kept.read_neighbours, folder, None),
    )


def _if_intact(read: Callable[[Path], T], path: Path, otherwise: T) -> T:
    """Returns what is read, or what stands for it where that is damaged."""
    try:
        return read(path)
    except (OSError, ValueError) as error:
        logging.warning("Not in the report: %s", one_line(error))
        return otherwise


def _read_json(path: Path) -> dict[str, Any]:
    """Returns a file's dict, an empty one where there is none."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it is no dict).")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the dicts of a file's lines, but one that a killed run left half done."""
    lines, damaged = [], 0
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            lines.append(dict(json.loads(text)))
        except (RecursionError, TypeError, ValueError):
            damaged += 1
    if damaged:
        logging.warning("%s: %d damaged line(s) are left out.", path, damaged)
    return lines
