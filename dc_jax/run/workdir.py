"""The folder of a run: which run it belongs to, and who may write to it."""

import contextlib
import fcntl
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from absl import logging
from flax.traverse_util import flatten_dict

from dc_jax.config import Config
from dc_jax.devices import processes
from dc_jax.errors import UserError
from dc_jax.files.content import is_unicode, write_json
from dc_jax.files.drafts import remove_stale
from dc_jax.files.paths import check_folder, is_address
from dc_jax.run import own_files

# A stopped run may be continued with other values of these fields. They do not change
# the images after a given iteration, except that `execution` changes the rounding.
_FREE_FIELDS = {
    *("iterations", "patience", "minutes", "num_evaluations", "eval_every"),
    *("checkpoint_minutes", "tensorboard", "evaluation", "execution", "mesh"),
    *("dataset.stream", "coreset.networks"),
    *("distributed", "coordinator_address", "num_processes", "process_id"),
}
# The learning rate of these methods falls over all iterations of a run.
_FIXED_ITERATIONS = ("dd", "frepo")

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
    check_folder(folder, "--workdir")


@contextlib.contextmanager
def claimed(config: Config, folder: Path) -> Iterator[None]:
    """Locks the folder and claims it for a run.

    Raises:
      UserError: on all processes, if the folder is in use or holds another run.
    """
    # First: not even a lock is left in a folder of others.
    processes.on_first(check_is_ours, config, folder)
    with locked(folder):
        processes.on_first(claim, config, folder)
        processes.on_first(remove_stale, folder, own_files.is_of_a_run)
        yield


@contextlib.contextmanager
def locked(
    folder: Path, *, waits: bool = False, name: str = "--workdir"
) -> Iterator[None]:
    """Keeps other commands out of the folder, which is created where needed.

    The first process of a run does this for all. `name` is the flag or field that
    says where the folder is.

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
            f"{name}={folder} cannot be made ({error.strerror}): choose another."
        ) from error
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        if not _lock(file, folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if not waits:
                raise UserError(
                    f"{name}={folder} is in use by another process: wait for it, "
                    "stop it, or choose another folder."
                )
            logging.info("Waiting for another process that uses %s.", folder)
            _lock(file, folder, fcntl.LOCK_EX)
        yield


def _lock(file: TextIO, folder: Path, how: int) -> bool:
    """Locks a file; returns False where another process has locked it.

    Raises:
      UserError: the folder's file system has no locks.
    """
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"--workdir={folder} cannot be locked ({error.strerror}): its file system "
            "has no locks; mount it with them, or choose a folder on another disk."
        ) from error
    return True


def claim(config: Config, folder: Path) -> None:
    """Writes the config of a run into its folder after `check_is_ours`."""
    check_is_ours(config, folder)
    write_json(folder / "config.json", config.to_dict())


def check_is_ours(config: Config, folder: Path) -> None:
    """Checks that a folder holds no files of another run.

    A run that failed before it kept anything does not count.

    Raises:
      UserError: it holds another run, a damaged `config.json`, or files of others that
        a run would write or delete.
    """
    ours = config.to_dict()
    theirs = own_files.find_config(ours, folder)
    files = (path.name for path in folder.rglob("*") if path.is_file())
    if theirs is None or _FILES_OF_A_START.issuperset(files):
        return
    theirs = flatten_dict(theirs, sep=".")
    check_same(ours, theirs, folder, _FREE_FIELDS)
    method, before = ours.get("method"), theirs.get("iterations")
    if method in _FIXED_ITERATIONS and ours["iterations"] != before:
        raise UserError(
            f"--workdir={folder} holds a run of {before} config.iterations, not "
            f"{ours['iterations']}, and its learning rate falls over all: choose "
            "another folder, or end it by "
            f"--config.iterations={before} --config.minutes=0."
        )


def check_is_free(config: Config, folder: Path) -> None:
    """Checks that a run could claim a folder, before its dataset is loaded.

    Raises:
      UserError: the folder is in use or holds another run.
    """
    if (folder / ".lock").exists():
        with locked(folder):
            check_is_ours(config, folder)
    elif folder.exists():
        check_is_ours(config, folder)


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
