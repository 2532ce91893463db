"""Whether a folder holds a finished run: all of its files, as the run left them."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from dc_jax import report
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.errors import UserError
from dc_jax.files.content import file_record, read_json, to_json, write_json
from dc_jax.methods import METHODS
from dc_jax.sets import image_grid, set_file

# What no evaluation makes again, only a new run.
_HISTORY = ("metrics.jsonl", "snapshots/")
_PICTURE = re.compile(r"images(?:_(\d+))?\.png")


def finished_result(
    config: Config, folder: Path, dataset: Dataset | None = None
) -> dict[str, Any] | None:
    """Returns the result of exactly this run if the folder holds it already.

    Every file is compared with its record on the card, and the log tells what was found
    and what was not looked at. Pictures and `result.json` are written again where they
    are missing or were edited; for the neighbours see `lacks_neighbours`. If another
    result is missing, there is no result: the run makes it again from its last
    checkpoint. `dataset` is given where `config` does not describe it.

    Raises:
      UserError: its images are not those of `dataset`, or its card is damaged.
    """
    # Not config.json, which may belong to a longer run that was stopped since.
    path = folder / "card.json"
    card = read_json(path)
    if card is None or card.get("config") != config.to_dict():
        return None
    match [card.get(name) for name in ("files", "dataset", "accuracy")]:
        case [dict(files), {"checksum": _}, dict(result)] if _is_whole(result):
            pass
        case _:
            hint = "put back a copy of it, or choose another folder"
            raise UserError(f"{path} is damaged: {hint}.")
    if dataset is not None:
        check_images(folder, dataset)
    if not _restore_result(folder, result, files.get("result.json")):
        logging.warning("%s is not what the run left; made again.", path)
        return None
    changed = [name for name in files if not _is_as_left(folder / name, files[name])]
    if not _restore_pictures(folder, changed, files):
        return None
    _restore_config(folder, config)
    if report.NEIGHBOURS in changed:
        path = folder / report.NEIGHBOURS
        logging.warning("%s is not what the run left; made again.", path)
    history = [name for name in changed if name.startswith(_HISTORY)]
    _log_finished(folder, history, is_checked=dataset is not None)
    if "stopped" in result:
        iteration, reason = result["iterations"], result["stopped"]
        logging.info("Iteration %s was the last: %s.", iteration, reason)
    return result


def read_result(
    config: Config, folder: Path, dataset: Dataset
) -> dict[str, Any] | None:
    """Returns the result of this run of a dataset by its card alone, if it has one."""
    card = read_json(folder / "card.json") or {}
    match card:
        case {"config": dict(held), "dataset": {"checksum": of}, "accuracy": dict(one)}:
            is_same = held == config.to_dict() and of == dataset.checksum()
            return one if is_same and _is_whole(one) else None
    return None


def check_images(folder: Path, dataset: Dataset) -> None:
    """Checks that the finished run in a folder is on the images of a dataset.

    Raises:
      UserError: its images are others.
    """
    card = read_json(folder / "card.json")
    if card["dataset"]["checksum"] != dataset.checksum():
        raise UserError(
            f"--workdir={folder} holds a run on other images than those of "
            f"{dataset.source}: choose another folder."
        )


def lacks_neighbours(config: Config, folder: Path) -> bool:
    """Whether the nearest training images of a finished run are yet to be found.

    Those of chosen images would be these.
    """
    if config.method not in METHODS:
        return False
    files = read_json(folder / "card.json")["files"]
    name = report.NEIGHBOURS
    return name not in files or not _is_as_left(folder / name, files[name])


def add_neighbours(folder: Path, dataset: Dataset) -> None:
    """Finds the training images nearest to the set of a finished run."""
    report.keep_neighbours(folder, dataset)
    if (folder / report.NEIGHBOURS).is_file():
        update_card(folder, report.NEIGHBOURS)


def update_card(folder: Path, name: str, **fields: Any) -> None:
    """Replaces a file's record on the card of a finished run, and these fields."""
    card = read_json(folder / "card.json") | fields
    card["files"][name] = file_record(folder / name)
    write_json(folder / "card.json", card)


def _restore_pictures(
    folder: Path, changed: list[str], files: Mapping[str, Any]
) -> bool:
    """Writes the pictures again that are among the changed files, by their sets.

    Returns whether no file is left that only an evaluation makes again.
    """
    experiments = {}
    for name in changed:
        match = _PICTURE.fullmatch(name)
        if match:
            experiments[name] = int(match[1] or 0)
        elif not name.startswith((*_HISTORY, report.NEIGHBOURS)):
            logging.warning("%s is not what the run left; made again.", folder / name)
            return False
    for name, experiment in experiments.items():
        path = folder / name
        logging.warning("%s is not what the run left; written again.", path)
        synthetic = set_file.load_synthetic_set(folder / set_file.set_name(experiment))
        image_grid.save_image_grid(path, synthetic)
        if not _is_as_left(path, files[name]):
            return False
    return True


def _restore_config(folder: Path, config: Config) -> None:
    """Writes `config.json` where it is missing; no evaluation needs it."""
    path = folder / "config.json"
    if not path.exists():
        logging.warning("%s is not what the run left; written again.", path)
        write_json(path, config.to_dict())


def _restore_result(folder: Path, result: dict[str, Any], record: Any) -> bool:
    """Writes `result.json` where it is not what the card has.

    Returns whether the card has what the run left, by its record of the file; earlier
    versions made none.
    """
    path, data = folder / "result.json", to_json(result, "result.json")
    if record not in (None, _record_of(data)):
        return False
    if not path.exists() or path.read_bytes() != data:
        logging.warning("%s is not what the run left; written again.", path)
        write_json(path, result)
    return True


def _is_as_left(path: Path, record: Any) -> bool:
    """Whether a file is what the card says; lines may have been added to `.jsonl`.

    They are those of a longer run that was stopped since.
    """
    if not path.is_file():
        return False
    if path.suffix != ".jsonl":
        return file_record(path) == record
    data = path.read_bytes()
    size = record.get("bytes", 0) if isinstance(record, dict) else 0
    return _record_of(data[:size] if isinstance(size, int) else b"") == record


def _record_of(data: bytes) -> dict[str, Any]:
    """Returns what `file_record` does for a file of these bytes."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _log_finished(folder: Path, changed: list[str], *, is_checked: bool) -> None:
    text = "%s holds the finished run already; %s."
    data = "its images are those of this call"
    if not is_checked:
        data = "whether its dataset is still the same was not checked"
    logging.info(text, folder, data)
    if changed:
        names = ", ".join(changed[:3]) + (", ..." if changed[3:] else "")
        text = "Missing or changed since, and made again by a new run only: %s."
        logging.warning(text, names)


def _is_whole(result: dict[str, Any]) -> bool:
    """Whether a result has all that `log_result` tells."""
    names = ("accuracy_mean", "accuracy_std", "num_experiments", "num_evaluations")
    return all(
        isinstance(part, dict) and isinstance(part.get(name), int | float)
        for part in (result, *map(result.get, {"own_protocol", "random"} & set(result)))
        for name in names
    )
