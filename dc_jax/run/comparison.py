"""Compares methods on one dataset, under one evaluation with one network."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from dc_jax import report
from dc_jax.base import stored_bytes
from dc_jax.config import Config, describe_ipc
from dc_jax.data.dataset import Dataset
from dc_jax.devices import processes
from dc_jax.errors import UserError
from dc_jax.evaluation.protocol import make_protocol
from dc_jax.files import read_json, write_json
from dc_jax.methods import METHODS
from dc_jax.methods.coresets import SELECTIONS
from dc_jax.run import runner
from dc_jax.run.checks import check_names
from dc_jax.run.setup import choose_evaluation_network, load
from dc_jax.run.signals import ends_at_once

NAME = "comparison.json"
# What every other method is compared with.
BASELINE = "random"


def compare(
    values: Mapping[str, Any],
    methods: Sequence[str],
    folder: Path,
    dataset: Dataset | None = None,
) -> list[dict[str, Any]]:
    """Runs methods, each in a folder of its own, and tells what their sets are worth.

    The same call continues where it was stopped. The evaluation is the config's; what
    that leaves open is the same for all methods, see `make_configs`.

    Args:
      values: of the config, by nested names; its method is ignored.
      methods: of `METHODS` and `SELECTIONS`, or `whole`; `random` is added.
      folder: for the runs, `comparison.json` and `comparison.html`.
      dataset: to condense; the config then only gives its name.

    Returns:
      A row for each method, see `make_row`.

    Raises:
      UserError: a method is unknown, the config or the dataset is unusable, or the
        folder holds files of others.
      Stopped: by a signal; what was made so far is saved.
    """
    configs = make_configs(values, methods)
    rows: list[dict[str, Any]] = []
    with ends_at_once(lambda: _saved(len(rows), len(configs), folder)):
        processes.on_first(_check_folder, folder)
        if dataset is None:
            dataset = load(next(iter(configs.values())))
        for name, config in configs.items():
            logging.info("Method %s, %d of %d.", name, len(rows) + 1, len(configs))
            result = runner.condense(config, str(folder / name), dataset=dataset)
            rows.append(make_row(name, result, dataset.image_shape))
            # Also after each: a comparison that is stopped shows what there is.
            content = {"dataset": dataset.name, "ipc": describe_ipc(config.ipc)}
            content |= {"protocol": result["protocol"], "methods": rows}
            processes.on_first(write_json, folder / NAME, content)
            processes.on_first(report.write_comparison, folder)
    return rows


def _saved(done: int, num: int, folder: Path) -> str:
    """Says what this command has done; earlier ones may have done more."""
    text = f"{done} of {num} methods are done in {folder}"
    return f"{text}; the same command continues with what is saved."


def make_configs(
    values: Mapping[str, Any], methods: Sequence[str]
) -> dict[str, Config]:
    """Returns a config for each method, with `random` first.

    Where the config leaves them open, the network that evaluates is the one that
    condenses, and the augmentation and epochs are those of gradient matching (`dc`):
    the defaults of other methods would train other networks on their sets.

    Raises:
      UserError: a method is unknown, or a field of the config is wrong.
    """
    known = [*METHODS, *SELECTIONS, "whole"]
    for name in methods:
        if name not in known:
            raise UserError(
                f"--methods must be among {', '.join(known)}, got {name!r}."
            )
    of_dc = Config.create({**values, "method": "dc", "augmentation": "none"})
    check_names(of_dc)
    protocol = make_protocol(
        dataclasses.replace(
            of_dc.evaluation,
            network=choose_evaluation_network(of_dc),
            augmentation=values["evaluation"]["augmentation"],
        ),
        dataset_name=of_dc.dataset.name,
        network_name=of_dc.network.name,
    )
    evaluation = dict(values["evaluation"]) | vars(protocol)
    evaluation["random_baseline"] = False  # It is a row.
    values = {**values, "evaluation": evaluation}
    # Real images are stored as they are.
    real = {**values, "formation": {"factor": 1}}
    return {
        name: Config.create({**(values if name in METHODS else real), "method": name})
        for name in dict.fromkeys([BASELINE, *methods])
    }


def make_row(
    method: str, result: Mapping[str, Any], image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Returns what is told of a method.

    Its `accuracy_mean` and `accuracy_std`, fractions; its `images`; the `bytes` of
    these and of soft labels, see `stored_bytes`; and the `seconds` that making them
    took.
    """
    images = result["training_images"]
    seconds = 0.0 if method == "whole" else result["seconds_condense"]
    return {
        "method": method,
        "accuracy_mean": result["accuracy_mean"],
        "accuracy_std": result["accuracy_std"],
        "accuracies": result["accuracies"],
        "images": images,
        "bytes": stored_bytes(images, image_shape, result.get("soft_labels", 0)),
        "seconds": seconds,
    }


def _check_folder(folder: Path) -> None:
    """Checks that a comparison's files would replace no others.

    Raises:
      UserError: the folder has a `comparison.json` of another program, or another page.
    """
    path, page = folder / NAME, folder / report.COMPARISON
    content = read_json(path)
    if content is not None and not isinstance(content.get("methods"), list):
        raise UserError(f"{path} is of another program: choose another folder.")
    if content is None and page.exists():
        raise UserError(f"{page} is of another program: choose another folder.")
