"""Training networks of one shape side by side."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices.backend import use_compilation_cache
from dc_jax.devices.layout import Layout, make_layout
from dc_jax.errors import UserError
from dc_jax.evaluation.evaluator import Evaluator, accuracies, train_in_phases
from dc_jax.evaluation.protocol import Protocol, make_protocol, phases
from dc_jax.files import file_record, read_json, write_json
from dc_jax.networks import set_member, split_names
from dc_jax.run import setup, workdir
from dc_jax.run.baselines import whole_accuracies
from dc_jax.run.compiled import compile_evaluation, evaluation_keys
from dc_jax.run.setup import check_fit, load, log_dataset, make_parts
from dc_jax.run.signals import signals_kill
from dc_jax.sets import set_file

_RESULT = "result.json"


def run(values: dict[str, Any], folder: str, *sets: str) -> dict[str, Any]:
    """Trains the networks of `config.evaluation.network` on sets, or on everything.

    Args:
      values: of the config; its names of networks are joined by commas.
      folder: for all that it writes; created where needed.
      *sets: folders of runs, whose first set is trained on; without, it is the whole
        training set.

    Returns:
      What is in `result.json`: in `networks` the accuracies of each, by name.

    Raises:
      UserError: the config, the dataset or a set is unusable, or `folder` holds
        another run.
      FileNotFoundError: a set is missing.
      FloatingPointError: a network stopped being finite.
      Stopped: by a signal; networks on the whole training set are saved.
    """
    config, path = Config.create(values), Path(folder)
    check_names(config)
    before = read_result(config, path)
    loaded = [set_file.load_synthetic_set(one) for one in sets]
    checksums = [_checksum(one) for one in sets]
    if before is not None:
        if before["made_with"]["sets"] == checksums:
            logging.info("%s holds the finished run already.", path)
            return before
        logging.info("%s holds a run on other sets; it is made again.", path)
    use_compilation_cache(config.execution)
    dataset = load(config)
    log_dataset(dataset)
    layout = make_layout(config, dataset.num_classes)
    protocol = make_protocol(
        config.evaluation, dataset_name=dataset.name, network_name=config.network.name
    )
    with workdir.locked(path):
        if sets:
            for one, of_set in zip(sets, loaded, strict=True):
                check_fit(of_set, dataset, one)
            evaluator = _make_evaluator(config, dataset, layout, protocol)
            results, facts = _on_sets(config, evaluator, loaded)
        else:
            results, facts = whole_accuracies(config, path, dataset, layout, protocol)
        made_with = {"config": config.to_dict(), "sets": checksums}
        result = {**_make_result(config, results, facts), "made_with": made_with}
        write_json(path / _RESULT, result)
    for name, of_name in result["networks"].items():
        logging.info("%s: %.2f%%.", name, 100 * of_name["accuracy_mean"])
    return result


def check_names(config: Config) -> None:
    """Checks the names of the networks, and what `parts.check_names` does.

    Raises:
      UserError: there are none, one is unknown or there twice, or fields exclude one
        another.
    """
    if not config.evaluation.network:
        raise UserError("config.evaluation.network must name networks, got None.")
    names = split_names(config.evaluation.network)
    if len(set(names)) < len(names):
        raise UserError(
            "config.evaluation.network must name each network once, got "
            f"{config.evaluation.network}."
        )
    for name in names:
        evaluation = dataclasses.replace(config.evaluation, network=name)
        setup.check_names(dataclasses.replace(config, evaluation=evaluation))


def read_result(config: Config, folder: Path) -> dict[str, Any] | None:
    """Returns the result that a folder holds, perhaps of other sets; None: it has none.

    Raises:
      UserError: it is another run's, or damaged.
    """
    path = folder / _RESULT
    result = read_json(path)
    if result is None:
        return None
    match result:
        case {"made_with": {"config": dict(theirs), "sets": list()}}:
            workdir.check_same(config.to_dict(), flatten_dict(theirs, sep="."), folder)
            return result
    raise UserError(f"{path} is damaged: delete it, or choose another folder.")


def _checksum(path: str) -> str:
    """Returns the checksum of a set, by its file or the folder of its run."""
    file = Path(path)
    file = file / set_file.SET_NAME if file.is_dir() else file
    return file_record(file)["sha256"]


def _make_evaluator(
    config: Config, dataset: Dataset, layout: Layout, protocol: Protocol
) -> Evaluator:
    """Returns what evaluates sets with all networks: its keys are `(key, member)`."""
    network, execution = make_parts(config, dataset, "evaluation", layout)
    num = len(split_names(protocol.network))
    parts = phases(protocol, network, execution)

    def train_one(
        data: tuple[jax.Array, jax.Array], key: tuple[jax.Array, jax.Array]
    ) -> dict[str, Any]:
        key, member = key
        init_key, *train_keys = jax.random.split(key, 1 + len(parts))
        variables = network.init(init_key, data[0][:1])
        if num > 1:
            variables = set_member(variables, member)
        return train_in_phases(parts, variables, data, train_keys)

    return Evaluator(
        dataset.test_images,
        dataset.test_labels,
        protocol,
        compile_evaluation(train_one, network, execution),
        at_once=num * layout.everything.size
        if execution.network_loop == "map"
        else None,
    )


def _on_sets(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the accuracies on each set, `[E, N, ...]`, and the seconds it took."""
    began = time.monotonic()
    num, num_names = (
        config.num_evaluations,
        len(split_names(evaluator.protocol.network)),
    )
    places = np.arange(num * num_names)
    with signals_kill():
        counts = []
        for experiment, one in enumerate(sets):
            keys = evaluation_keys(config.seed, experiment, num)
            networks = (keys[places // num_names], places % num_names)
            counts.append(evaluator.count(one, networks))
        results = accuracies(np.stack(counts)).reshape(len(sets), num, num_names)
    return results, {"seconds": round(time.monotonic() - began, 3)}


def _make_result(
    config: Config, accuracies: np.ndarray, facts: dict[str, Any]
) -> dict[str, Any]:
    """Returns what is told of each network, and of all.

    Args:
      config: its names of the networks.
      accuracies: `[E, N, names]`, or `[E, N]` of one name.
      facts: may have `accuracies_on_the_way`, of shape `[N, epochs, names]`.
    """
    names = split_names(config.evaluation.network)
    accuracies = accuracies.reshape(*accuracies.shape[:2], len(names))
    networks = {n: workdir.summarise(accuracies[..., i]) for i, n in enumerate(names)}
    on_the_way = facts.pop("accuracies_on_the_way", None)
    if on_the_way is not None:
        on_the_way = np.reshape(on_the_way, (len(on_the_way), -1, len(names)))
        for place, of_name in enumerate(networks.values()):
            of_name["accuracies_on_the_way"] = on_the_way[..., place].tolist()
    return {"networks": networks, **facts}
