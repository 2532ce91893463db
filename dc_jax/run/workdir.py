"""The folder of a run: which run it belongs to, and what the run leaves in it."""

import contextlib
import datetime
import fcntl
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices import processes
from dc_jax.errors import UserError
from dc_jax.evaluation.protocol import Protocol
from dc_jax.files import file_record, is_unicode, read_json, write_json
from dc_jax.paths import is_address
from dc_jax.sets import image_grid, set_file
from dc_jax.sets.card import make_card, make_recipe

# A stopped run may be continued with other values of these fields. They do not change
# the images after a given iteration, except that `execution` changes the rounding.
_FREE_FIELDS = {
    *("iterations", "num_evaluations", "eval_every", "checkpoint_minutes"),
    *("tensorboard", "evaluation", "execution", "mesh"),
    *("dataset.stream", "coreset.networks"),
    *("distributed", "coordinator_address", "num_processes", "process_id"),
}
# Not free for these methods, whose learning rate falls with every tenth of the run.
_FIXED_FIELDS = {"dd": {"iterations"}}

# A folder with no other files belongs to no run yet: nothing would be lost.
_FILES_OF_A_START = {"config.json", ".lock", "log.txt"}


def check_name(folder: Path) -> None:
    """Checks that a run can have a folder of this name.

    Raises:
      UserError: it is not Unicode, or a file, or the address of a bucket.
    """
    if is_address(str(folder)):
        raise UserError(
            f"--workdir must be a folder, got {folder}; a bucket can be mounted as one."
        )
    if not is_unicode(str(folder)):
        raise UserError(f"--workdir must be valid Unicode, got {str(folder)!r}.")
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise UserError(f"--workdir={folder}: {part} is a file, not a folder.")


@contextlib.contextmanager
def claimed(config: Config, folder: Path) -> Iterator[None]:
    """Locks the folder and claims it for a run.

    Raises:
      UserError: on all processes, if the folder is in use or holds another run.
    """
    with locked(folder):
        processes.on_first(claim, config, folder)
        yield


@contextlib.contextmanager
def locked(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """Keeps other commands out of the folder, which is created where needed.

    The first process of a run does this for all.

    Raises:
      UserError: another command uses it and `waits` is False, or it cannot be made.
    """
    if not processes.is_first():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={folder} cannot be made ({error.strerror}): choose another."
        ) from error
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits:
                raise UserError(
                    f"--workdir={folder} is in use by another process: wait for it, "
                    "stop it, or choose another folder."
                ) from None
            logging.info("Waiting for another process that uses %s.", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(config: Config, folder: Path) -> None:
    """Writes the config of a run into its folder after `check_is_ours`."""
    check_is_ours(config, folder)
    write_json(folder / "config.json", config.to_dict())


def check_is_ours(config: Config, folder: Path) -> None:
    """Checks that a folder holds no files of another run.

    A run that failed before it kept anything does not count.

    Raises:
      UserError: it holds another run, or a damaged `config.json`.
    """
    theirs = read_json(folder / "config.json")
    files = (path.name for path in folder.rglob("*") if path.is_file())
    if theirs is None or _FILES_OF_A_START.issuperset(files):
        return
    ours = config.to_dict()
    free = _FREE_FIELDS - _FIXED_FIELDS.get(ours.get("method"), set())
    check_same(ours, flatten_dict(theirs, sep="."), folder, free)


def check_same(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    folder: Path,
    free: Collection[str] = (),
) -> None:
    """Checks that the run in a folder has the same config as this run.

    `ours` is nested, `theirs` by dotted names. The fields and groups in `free` may
    differ.

    Raises:
      UserError: another field differs.
    """
    for name, value in flatten_dict(ours, sep=".").items():
        is_free = name in free or name.split(".")[0] in free
        if not is_free and value != theirs.get(name):
            raise UserError(
                f"--workdir={folder} holds a run with config.{name} = "
                f"{theirs.get(name)!r}, not {value!r}: choose another folder."
            )


def finished_result(
    config: Config, folder: Path, dataset: Dataset | None = None
) -> dict[str, Any] | None:
    """Returns the result of exactly this run if the folder holds it already.

    `dataset` is given where `config` does not describe it.

    Raises:
      UserError: its images are not those of `dataset`, or its card is damaged.
    """
    # Not config.json, which may belong to a longer run that was stopped since.
    path = folder / "card.json"
    card = read_json(path)
    if card is None or card.get("config") != config.to_dict():
        return None
    match [card.get(name) for name in ("files", "dataset", "accuracy")]:
        case [dict(files), {"checksum": checksum}, dict(result)] if _is_whole(result):
            pass
        case _:
            raise UserError(f"{path} is damaged: delete it, or choose another folder.")
    if dataset is not None and checksum != dataset.checksum():
        raise UserError(
            f"--workdir={folder} holds a run on other images than those of "
            f"{dataset.source}: choose another folder."
        )
    for name, record in files.items():
        path = folder / name
        if not path.exists() or file_record(path) != record:
            logging.warning("%s is not what the run left; made again.", path)
            return None
    return result


def save_run(
    config: Config,
    folder: Path,
    dataset: Dataset,
    *,
    protocol: Protocol,
    sets: list[SyntheticSet],
    result: dict[str, Any],
) -> None:
    """Writes the set of each experiment, its picture, the result, and last the card.

    A run is finished once its card is there, which repeats config and result.
    """
    files = []
    for experiment, synthetic in enumerate(sets):
        recipe = make_recipe(
            method=config.method,
            dataset=dataset.name,
            ipc=config.ipc,
            protocol=vars(protocol),
            in_words=str(protocol),
            accuracies=result["accuracies"][experiment],
        )
        files.append(folder / set_file.set_name(experiment))
        set_file.save_synthetic_set(files[-1], synthetic.replace(recipe=recipe))
        number = f"_{experiment}" if experiment else ""
        files.append(folder / f"images{number}.png")
        image_grid.save_image_grid(files[-1], synthetic)
    card = make_card(
        method=config.method,
        config=config.to_dict(),
        seed=config.seed,
        dataset=dataset,
        protocol=vars(protocol),
        accuracy=result,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=files,
    )
    write_json(folder / "result.json", result)
    write_json(folder / "card.json", card)


def add_evaluation(folder: Path, result: dict[str, Any]) -> None:
    """Adds a line to `evaluations.jsonl` in a folder, which is made where needed."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "evaluations.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def summarise(accuracies: np.ndarray) -> dict[str, Any]:
    """Returns mean and spread of accuracies `[E, N]`, fractions, over all networks."""
    return {
        "accuracy_mean": float(accuracies.mean()),
        "accuracy_std": float(accuracies.std()),
        "num_experiments": accuracies.shape[0],
        "num_evaluations": accuracies.shape[1],
        "accuracies": accuracies.tolist(),
    }


def log_result(result: dict[str, Any]) -> None:
    """Logs the accuracies in a line or two."""
    of = {"Test accuracy": result}
    if "own_protocol" in result:
        of["By the training with the learned learning rates"] = result["own_protocol"]
    for what, one in of.items():
        percent = f"{one['accuracy_mean']:.2%} ± {100 * one['accuracy_std']:.2f}"
        num = one["num_experiments"] * one["num_evaluations"]
        text = "%s %s (mean and standard deviation of %d networks)."
        logging.info(text, what, percent, num)


def _is_whole(result: dict[str, Any]) -> bool:
    """Whether a result has all that `log_result` tells."""
    names = ("accuracy_mean", "accuracy_std", "num_experiments", "num_evaluations")
    return all(
        isinstance(part, dict) and isinstance(part.get(name), int | float)
        for part in (result, result.get("own_protocol", result))
        for name in names
    )
