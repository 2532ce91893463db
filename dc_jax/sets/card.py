"""What is told of a condensed set: the recipe in its file, the card of its run."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import dc_jax
from dc_jax.base import SyntheticSet
from dc_jax.data.dataset import Dataset
from dc_jax.devices.backend import KEYS
from dc_jax.errors import UserError
from dc_jax.files import file_record, to_plain


def training_of(synthetic_set: SyntheticSet) -> dict[str, Any]:
    """Returns the dict `training` of a set's recipe, empty where there is none.

    Raises:
      UserError: it is no dict.
    """
    if synthetic_set.recipe is None:
        return {}
    training = json.loads(synthetic_set.recipe).get("training", {})
    if not isinstance(training, dict):
        raise UserError(f"the set's recipe has training {training!r}, must be fields.")
    return training


def make_recipe(
    *,
    method: str,
    dataset: str,
    ipc: int | Sequence[int],
    protocol: Mapping,
    in_words: str,
    accuracies: Iterable[float] = (),
) -> str:
    """Returns how to use a set, for `SyntheticSet.recipe`.

    Args:
      method: name of the method that made the set.
      dataset: name of the dataset that was condensed.
      ipc: images per class, or a number for each class.
      protocol: how networks were trained on the set.
      in_words: the protocol as a sentence.
      accuracies: of these networks on the test split, fractions; empty where they
        were not measured.

    Returns:
      The text of a JSON object.
    """
    accuracies = list(accuracies)
    recipe = {
        "method": method,
        "dataset": dataset,
        "ipc": ipc,
        "training": dict(protocol),
        "training_in_words": in_words,
    }
    if accuracies:
        recipe |= {
            "accuracy_mean": float(np.mean(accuracies)),
            "accuracy_std": float(np.std(accuracies)),
            "num_evaluations": len(accuracies),
        }
    return json.dumps(to_plain(recipe, "recipe"), ensure_ascii=False)


def make_card(
    *,
    method: str,
    config: Mapping,
    seed: int,
    dataset: Dataset,
    protocol: Mapping,
    accuracy: Mapping,
    created: str,
    files: Iterable[str | os.PathLike],
) -> dict:
    """Returns the card of a run: all that is needed to judge or to repeat it.

    Args:
      method: name of the method.
      config: every field of the configuration, nested.
      seed: the one seed of the run.
      dataset: what was condensed.
      protocol: how `accuracy` was measured.
      accuracy: the accuracy of exactly the images in `files`.
      created: UTC time in ISO 8601.
      files: the other files of the run; the card has the size and checksum of each.

    Returns:
      A dict for `write_json`.
    """
    return {
        "method": method,
        "created": created,
        "seed": seed,
        "accuracy": dict(accuracy),
        "protocol": dict(protocol),
        "dataset": {
            "name": dataset.name,
            "source": dataset.source,
            "checksum": dataset.checksum(),
            "num_train": len(dataset.train_images),
            "num_test": len(dataset.test_images),
            "image_shape": list(dataset.image_shape),
            "num_classes": dataset.num_classes,
        },
        "config": dict(config),
        "command": _command(),
        "versions": _versions(),
        # Fixed for every run, see `fixed_numerics`.
        "arithmetic": {"floats": "float32", "keys": KEYS},
        "files": {
            os.path.basename(os.fspath(file)): file_record(file) for file in files
        },
    }


def _command() -> str:
    """Returns the command line of this process."""
    # File names need not be valid UTF-8; JSON must be.
    command = shlex.join(sys.orig_argv)
    return command.encode("utf-8", "backslashreplace").decode()


def _versions() -> dict:
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    commit = _commit()
    return {
        "dc_jax": dc_jax.__version__,
        **({"commit": commit} if commit else {}),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
    }


def _commit() -> str | None:
    """Returns the commit of this package's source, with `-dirty` if files differ.

    None where git is missing, or the source is not in its repository because the
    package was installed.
    """
    git = ["git", "-C", os.path.dirname(dc_jax.__file__)]
    # An installed copy may lie in a repository of another project.
    is_known = [*git, "ls-files", "--error-unmatch", "__init__.py"]
    name = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    options = {"capture_output": True, "check": True, "text": True, "timeout": 10}
    try:
        subprocess.run(is_known, **options)
        return subprocess.run(name, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
