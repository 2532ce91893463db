"""Compares methods on one dataset, under one evaluation with one network."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
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
from dc_jax.files.content import read_json, write_json
from dc_jax.methods import METHODS
from dc_jax.methods.coresets import SELECTIONS
from dc_jax.run import finished, runner, workdir
from dc_jax.run.checks import check_names
from dc_jax.run.setup import choose_evaluation_network, load, with_whitening
from dc_jax.run.signals import ends_at_once
from dc_jax.sets import set_file

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

    The same call continues where it was stopped, and one with other methods adds them.
    What speaks against it is found before the dataset is loaded. The evaluation is the
    config's; what that leaves open is the same for all methods, see `make_configs`.

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
    processes.on_first(_check_folder, folder)
    for name, config in configs.items():
        check_names(config)
        processes.on_first(workdir.check_is_free, config, folder / name)
    done: list[str] = []
    with ends_at_once(lambda: _saved(len(done), len(configs), folder)):
        first = configs[BASELINE]
        if dataset is None:
            dataset = load(first)
        dataset = with_whitening(first, dataset)  # Not once for each method.
        rows = processes.on_first(_finished_rows, values, folder, dataset)
        for name, config in configs.items():
            logging.info("Method %s, %d of %d.", name, len(done) + 1, len(configs))
            result = runner.condense(config, str(folder / name), dataset=dataset)
            rows[name] = make_row(name, result, dataset.image_shape)
            done.append(name)
            # Also after each: a comparison that is stopped shows what there is.
            content = {"dataset": dataset.name, "ipc": describe_ipc(config.ipc)}
            content |= {"protocol": result["protocol"]}
            content |= {"methods": _in_order(rows, configs)}
            processes.on_first(write_json, folder / NAME, content)
            processes.on_first(report.write_comparison, folder)
    return [rows[name] for name in configs]


def _finished_rows(
    values: Mapping[str, Any], folder: Path, dataset: Dataset
) -> dict[str, dict[str, Any]]:
    """Returns the rows of all methods that are finished in a folder, by name.

    These are also those of earlier calls with other methods.
    """
    rows = {}
    for name, config in make_configs(values, _known()).items():
        result = finished.read_result(config, folder / name, dataset)
        if result is not None and {"accuracies", "training_images"} <= result.keys():
            rows[name] = make_row(name, result, dataset.image_shape)
    return rows


def _in_order(
    rows: Mapping[str, dict[str, Any]], first: Iterable[str]
) -> list[dict[str, Any]]:
    """Returns the rows by name: these first, then the others."""
    return [rows[name] for name in dict.fromkeys([*first, *rows]) if name in rows]


def _saved(done: int, num: int, folder: Path) -> str:
    """Says what this command has done; earlier ones may have done more."""
    text = f"{done} of {num} methods are done in {folder}"
    return f"{text}; the same command continues with what is saved."


def _known() -> list[str]:
    return [*METHODS, *SELECTIONS, "whole"]


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
    known = _known()
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
    these and of soft labels, see `stored_bytes`; the `seconds` that making them took;
    and of a run that ended before all its iterations why it was `stopped`.
    """
    images = result["training_images"]
    seconds = result.get("seconds_condense", 0.0)  # `whole` has none.
    return {
        "method": method,
        "accuracy_mean": result["accuracy_mean"],
        "accuracy_std": result["accuracy_std"],
        "accuracies": result["accuracies"],
        "images": images,
        "bytes": stored_bytes(images, image_shape, result.get("soft_labels", 0)),
        "seconds": seconds,
        **({"stopped": result["stopped"]} if "stopped" in result else {}),
    }


def _check_folder(folder: Path) -> None:
    """Checks that a comparison's files would replace no others, nor mix with a run's.

    Raises:
      UserError: the folder is that of a run, or it has a `comparison.json` or a page of
        another program.
    """
    workdir.check_name(folder)
    for name in ("config.json", "card.json", set_file.SET_NAME):
        if (folder / name).exists():
            raise UserError(
                f"--workdir={folder} holds {name}, as a single run does, which a "
                "comparison would mix with: choose another folder."
            )
    path, page = folder / NAME, folder / report.COMPARISON
    content = read_json(path)
    if content is not None and not _is_ours(content):
        raise UserError(f"{path} is of another program: choose another folder.")
    if page.exists() and not report.is_ours(page):
        raise UserError(f"{page} is of another program: choose another folder.")


def _is_ours(content: Mapping[str, Any]) -> bool:
    """Whether the content of a `comparison.json` is that of a comparison."""
    match content:
        case {"dataset": str(), "ipc": str(), "protocol": {}, "methods": [*rows]}:
            names = {"method", "accuracy_mean", "accuracies", "bytes"}
            return all(isinstance(row, dict) and names <= row.keys() for row in rows)
    return False
