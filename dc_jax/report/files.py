"""Reads what a report shows: the files in the folder of a run.

Damaged files are found here. So the sections of the report can rely on the fields that
`fields.py` lists, and any exception in a section is a bug.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.errors import UserError, one_line
from dc_jax.files import read_json, read_json_lines
from dc_jax.report import kept
from dc_jax.report.fields import CARD, CONFIG, EVALUATION, METRICS, find_fault
from dc_jax.sets import set_file

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """The contents of a run's folder. A missing or damaged file is empty or None.

    Attributes:
      config: of `card.json`, or of `config.json` if the run has not finished; nested.
      card: `card.json`; empty if the run has not finished.
      sets: the sets of all experiments.
      metrics: the lines of `metrics.jsonl`.
      evaluations: the lines of `evaluations.jsonl`.
      snapshots: PNGs by iteration, in increasing order.
      confusion: counts `[C, C]`.
      neighbours: the nearest training images of the first set's images.
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
    def result(self) -> Mapping[str, Any]:
        """The contents of `result.json`; empty if the run has not finished."""
        return self.card.get("accuracy", {})


def read_files(folder: Path) -> Files:
    """Reads the files of a run.

    Logs a warning for each damaged file and goes on without it, unless it is the card
    or the config.

    Raises:
      OSError: the card or the config cannot be read.
      UserError: the card or the config is damaged, or the folder holds no run.
    """
    card = _read_dict(folder / "card.json", CARD)
    config = card.get("config") or _read_dict(folder / "config.json", CONFIG)
    evaluations = _read_lines(folder / "evaluations.jsonl", EVALUATION)
    if not config and not evaluations:
        raise UserError(
            f"{folder} holds no run: there is no card.json, config.json or "
            "evaluations.jsonl in it."
        )
    has_sets = (folder / set_file.SET_NAME).exists()
    return Files(
        config=config,
        card=card,
        sets=_if_intact(set_file.load_synthetic_sets, folder, []) if has_sets else [],
        metrics=_read_lines(folder / "metrics.jsonl", METRICS),
        evaluations=evaluations,
        snapshots=_if_intact(kept.read_snapshots, folder, {}),
        confusion=_if_intact(kept.read_confusion, folder, None),
        neighbours=_if_intact(kept.read_neighbours, folder, None),
    )


def _if_intact(read: Callable[[Path], T], path: Path, otherwise: T) -> T:
    """Returns what `read` returns, or `otherwise` if the file is damaged."""
    try:
        return read(path)
    except (OSError, UserError) as error:
        logging.warning("Not in the report: %s", one_line(error))
        return otherwise


def _read_dict(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the dict in a JSON file with these fields, an empty one without a file.

    Raises:
      OSError: the file cannot be read.
      UserError: the file is damaged.
    """
    value = read_json(path)
    fault = None if value is None else find_fault(value, fields)
    if fault:
        raise UserError(f"{path} is damaged: {fault}.")
    return value or {}


def _read_lines(path: Path, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the dicts with these fields in the lines of a file.

    Logs a warning if other lines are left out, or if the file cannot be read.
    """

    def read(path: Path) -> list[dict[str, Any]]:
        return read_json_lines(path, lambda line: find_fault(line, fields))

    return _if_intact(read, path, [])
