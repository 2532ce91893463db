"""Which files in a folder are those of a run, and which are somebody else's."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dc_jax import report
from dc_jax.errors import UserError
from dc_jax.files.content import read_json, read_json_lines

# What a run writes or deletes in its folder, but for the `.lock`, which is empty.
_OF_A_RUN = re.compile(
    r"(config|card|result)\.json|metrics\.jsonl|confusion\.csv|neighbours\.npz"
    r"|report\.html|synthetic_set(_[1-9]\d*)?\.npz|images(_[1-9]\d*)?\.png"
    r"|checkpoints|networks|snapshots|tensorboard"
)
# The same in `snapshots`, `checkpoints` and `networks`.
_BELOW = re.compile(r"\d+\.png|\d{8,}\.ckpt|features_\d+\.npz")


def find_config(ours: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """Returns the config of the run in a folder, None where there is no run.

    It is in `config.json`, or in the card of a run that has finished. `ours`, the
    config of the run that is to be there, tells what a config looks like.

    Raises:
      UserError: a file is damaged, or the folder holds what no run wrote and a run
        would write or delete.
    """
    config = read_json(folder / "config.json")
    if config is not None and not _is_config(config, ours):
        raise _stranger(folder, "config.json")
    if config is None:
        card = read_json(folder / "card.json") or {}
        config = card.get("config")
        config = config if _is_config(config, ours) else None
    if config is None and folder.is_dir():
        _check_no_strangers(folder)
    return config


def check_evaluations(folder: Path) -> None:
    """Checks that an evaluation may be added to a folder, and its report written.

    Raises:
      UserError: a file of that name is somebody else's.
    """
    path = folder / "evaluations.jsonl"
    if path.exists() and path.stat().st_size:
        names = {name for line in read_json_lines(path) for name in line}
        if "accuracy_mean" not in names:
            raise _stranger(folder, path.name)
    elif (page := folder / "report.html").exists() and not report.is_ours(page):
        raise _stranger(folder, "report.html")


def is_of_a_run(name: str) -> bool:
    """Whether a file of this name, in a run's folder or below, is the run's."""
    return any(pattern.fullmatch(name) for pattern in (_OF_A_RUN, _BELOW))


def picture_name(experiment: int) -> str:
    """Returns the file name of the picture of an experiment's set."""
    return f"images_{experiment}.png" if experiment else "images.png"


def find_results(folder: Path) -> list[str]:
    """Returns the names of the files in which a run keeps its results, for its card.

    These are all but the card itself, the checkpoints, and what is made of the others:
    the report, and the files for TensorBoard.
    """
    patterns = ("synthetic_set*.npz", "images*.png", "snapshots/*.png")
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    names = [path.relative_to(folder).as_posix() for path in found]
    others = ("result.json", "metrics.jsonl", "confusion.csv", "neighbours.npz")
    names += [name for name in others if (folder / name).exists()]
    return sorted(name for name in names if is_of_a_run(name.rpartition("/")[2]))


def _check_no_strangers(folder: Path) -> None:
    """Raises a `UserError` if a folder without a run holds what a run would write."""
    names = {path.name for path in folder.iterdir() if _OF_A_RUN.fullmatch(path.name)}
    # `--mode=evaluate` leaves the report, without a run.
    if (folder / "evaluations.jsonl").exists():
        names.discard("report.html")
    for name in sorted(names):
        raise _stranger(folder, name)


def _stranger(folder: Path, name: str) -> UserError:
    return UserError(
        f"--workdir={folder} holds {name}, which is no run's and would be lost: choose "
        "another folder."
    )


def _is_config(value: Any, ours: Mapping[str, Any]) -> bool:
    """Whether a value of JSON looks like a config: earlier ones had other fields."""
    return isinstance(value, dict) and 2 * len(ours.keys() & value.keys()) > len(ours)
