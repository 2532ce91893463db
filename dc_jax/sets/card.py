"""What is told of a condensed set: the recipe in its file, the card of its run."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import dc_jax
from dc_jax.base import SyntheticSet
from dc_jax.data.dataset import Dataset
from dc_jax.devices.backend import KEYS
from dc_jax.errors import UserError
from dc_jax.files.content import file_record, to_plain


def training_of(synthetic_set: SyntheticSet) -> dict[str, Any]:
    """Returns the dict `training` of a set's recipe, empty where there is none.

    Raises:
      UserError: it is no dict.
    """
    training = json.loads(synthetic_set.recipe or "{}").get("training", {})
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
    accuracies: Sequence[float] = (),
) -> str:
    """Returns how to use a set, for `SyntheticSet.recipe`: the text of a JSON object.

    `protocol` is how networks were trained on the set, and `accuracies` theirs on the
    test split, fractions; they are empty where they were not measured.
    """
    recipe = {
        "method": method,
        "dataset": dataset,
        "ipc": ipc,
        "training": dict(protocol),
        "training_in_words": in_words,
    }
    if len(accuracies) > 0:
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
    files: Mapping[str, str | os.PathLike],
) -> dict:
    """Returns the card of a run: all that is needed to judge or to repeat it.

    `accuracy` is that of exactly the images in `files`, measured by `protocol`. The
    files are the others of the run, by name; `created` is UTC time in ISO 8601.
    """
    # File names need not be valid UTF-8; JSON must be.
    command = shlex.join(sys.orig_argv).encode("utf-8", "backslashreplace").decode()
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
        "command": command,
        "versions": _versions(),
        # Floats and keys are fixed for every run, see `fixed_numerics`.
        "arithmetic": {
            "floats": "float32",
            "layers": config["execution"]["dtype"],
            "precision": config["execution"]["precision"],
            "keys": KEYS,
        },
        "files": {name: file_record(path) for name, path in files.items()},
    }


def _versions() -> dict:
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "dc_jax": dc_jax.__version__,
        **_commit(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
    }


def _commit() -> dict[str, str]:
    """Returns the commit of this package's source, with `-dirty` if files differ.

    It is empty without git, and for an installed package, which has no repository.
    """
    git = ["git", "-C", os.path.dirname(dc_jax.__file__)]
    # An installed copy may lie in a repository of another project.
    is_known = [*git, "ls-files", "--error-unmatch", "__init__.py"]
    name = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    options = {"capture_output": True, "check": True, "text": True, "timeout": 10}
    try:
        subprocess.run(is_known, **options)
        return {"commit": subprocess.run(name, **options).stdout.strip()}
    except (OSError, subprocess.SubprocessError):
        return {}
