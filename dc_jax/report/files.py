"""Reads what a report shows: the files in the folder of a run.

Damaged files are found here. So the sections of the report can rely on the fields that
are listed here, and any exception in a section is a bug.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.errors import UserError, one_line
from dc_jax.files.content import read_json, read_json_lines
from dc_jax.report import kept
from dc_jax.sets import set_file

T = TypeVar("T")

# The fields that the report needs, see `_fits`.
_NUMBER, _MAYBE, _NONE = int | float, int | float | None, type(None)
_ACCURACY = {"accuracy_mean": _NUMBER, "accuracy_std": _NUMBER}
_SUMMARY = _ACCURACY | {"num_experiments": int, "num_evaluations": int}
_CONFIG = {
    "method": str,
    "seed": int,
    "ipc": (int, [int]),
    "eval_every": int | None,
    "iterations": int | None,
    "init": str | None,
    "dataset": {"name": str, "path": str | None},
    "network": {"name": str},
    "evaluation": {},
}
_RESULT = _SUMMARY | {
    "own_protocol": (_NONE, _SUMMARY),
    "random": (_NONE, _SUMMARY),
    "training_images": int | None,
    "iterations": int | None,
    "stopped": str | None,
    "seconds": _MAYBE,
    "accuracies_on_the_way": (_NONE, [[_NUMBER]]),
}
_COUNTS = {"num_train": int, "num_test": int, "num_classes": int}
_CARD = {
    "config": _CONFIG,
    "accuracy": _RESULT,
    "dataset": _COUNTS | {"source": str, "checksum": str, "image_shape": [int]},
    "created": str,
    "protocol": {},
    "versions": {},
    "command": str,
}
_METRICS = {"iteration": int, "loss": _MAYBE, "layers": (_NONE, {"*": _NUMBER})}
_METRICS |= {"accuracy_mean": _MAYBE, "accuracy_std": _MAYBE}
_EVALUATION = _ACCURACY | {"set": str, "protocol": {"network": str}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """The contents of a run's folder. A missing or damaged file is empty or None."""

    config: Mapping[str, Any]  # Nested, also of a run that has not finished.
    card: Mapping[str, Any]  # Empty if the run has not finished, as is the result.
    result: Mapping[str, Any]  # The contents of `result.json`.
    sets: list[SyntheticSet]  # Of all experiments.
    metrics: list[dict[str, Any]]  # The lines of `metrics.jsonl`.
    evaluations: list[dict[str, Any]]  # The lines of `evaluations.jsonl`.
    snapshots: Mapping[int, bytes]  # PNGs by iteration, in increasing order.
    confusion: np.ndarray | None  # Counts [C, C].
    neighbours: kept.Neighbours | None  # Of the images of the first set.


def read_files(folder: Path) -> Files:
    """Reads the files of a run.

    Logs a warning for each damaged file and goes on without it, unless it is the card
    or the config.

    Raises:
      OSError: the card or the config cannot be read.
      UserError: the card or the config is damaged, or the folder holds no run.
    """
    card = _read_dict(folder / "card.json", _CARD)
    config = card.get("config") or _read_dict(folder / "config.json", _CONFIG)
    evaluations = _read_lines(folder / "evaluations.jsonl", _EVALUATION)
    if not config and not evaluations:
        raise UserError(
            f"{folder} holds no run: there is no card.json, config.json or "
            "evaluations.jsonl in it."
        )
    has_sets = (folder / set_file.SET_NAME).exists()
    return Files(
        config=config,
        card=card,
        result=card.get("accuracy", {}),
        sets=_if_intact(set_file.load_synthetic_sets, folder, []) if has_sets else [],
        metrics=_read_lines(folder / "metrics.jsonl", _METRICS),
        evaluations=evaluations,
        snapshots=_if_intact(kept.read_snapshots, folder, {}),
        confusion=_if_intact(kept.read_confusion, folder / "confusion.csv", None),
        neighbours=_if_intact(kept.read_neighbours, folder / kept.NEIGHBOURS, None),
    )


def _if_intact(read: Callable[[Path], T], path: Path, otherwise: T) -> T:
    """Returns what `read` returns, or `otherwise` if the file is missing or damaged."""
    if not path.exists():
        return otherwise
    try:
        return read(path)
    except (OSError, OverflowError, ValueError) as error:
        logging.warning("%s is not in the report: %s", path, one_line(error))
        return otherwise


def _read_dict(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    value = read_json(path)
    if value is not None and not _fits(value, fields):
        raise UserError(f"{path} is damaged: fields are missing or of another type.")
    return value or {}


def _read_lines(path: Path, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    lines = _if_intact(read_json_lines, path, [])
    whole = [line for line in lines if _fits(line, fields)]
    if len(whole) < len(lines):
        num = len(lines) - len(whole)
        logging.warning("%s: %d damaged line(s) are left out.", path, num)
    return whole


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value that was read from JSON is of a kind.

    A kind is a type, a tuple of kinds to choose from, a list with the kind of one or
    more values, or a dict with the kinds of some fields, where "*" is any field. A
    missing field is None.
    """
    if isinstance(kind, tuple):
        return any(_fits(value, one) for one in kind)
    if not isinstance(value, type(kind) if isinstance(kind, list | dict) else kind):
        return False
    if isinstance(kind, list):
        return len(value) > 0 and all(_fits(one, kind[0]) for one in value)
    if isinstance(kind, dict):
        kinds = dict.fromkeys(value, kind["*"]) if "*" in kind else kind
        return all(_fits(value.get(name), one) for name, one in kinds.items())
    # This leaves out NaN and infinity, and keeps sums and multiples finite.
    return not isinstance(value, int | float) or abs(value) < 1e300
