"""Trains networks of one shape, side by side, on sets or on the whole training set.

The protocol of such a training names all networks, joined by commas.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices.backend import Execution
from dc_jax.devices.compilation_cache import use_compilation_cache
from dc_jax.devices.layout import Layout, make_layout
from dc_jax.errors import UserError
from dc_jax.evaluation.evaluator import accuracies
from dc_jax.evaluation.protocol import Protocol, make_protocol, phases
from dc_jax.files.content import file_record, read_json, write_json
from dc_jax.networks.convnet import parse_convnet_name
from dc_jax.progress import Progress
from dc_jax.run import checks, saving, workdir
from dc_jax.run.baselines import train_and_test, train_by_phases
from dc_jax.run.checks import check_fit
from dc_jax.run.compiled import compile_evaluation, evaluation_keys
from dc_jax.run.full_data_trainer import WholeTrainer, check_finite
from dc_jax.run.set_trainer import Evaluator
from dc_jax.run.setup import load, log_dataset, make_parts
from dc_jax.run.signals import ends_at_once
from dc_jax.sets import set_file
from dc_jax.training.full_data import WholeState
from experiments.architecture_search import side_by_side

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
    networks = _make_networks(config, dataset, layout)
    with workdir.locked(path):
        if sets:
            for one, of_set in zip(sets, loaded, strict=True):
                check_fit(of_set, dataset, one)
            results, facts = _on_sets(config, dataset, networks, loaded)
        else:
            results, facts = _on_everything(config, path, dataset, networks)
        made_with = {"config": config.to_dict(), "sets": checksums}
        result = {**_make_result(config, results, facts), "made_with": made_with}
        write_json(path / _RESULT, result)
    for name, of_name in result["networks"].items():
        logging.info("%s: %.2f%%.", name, 100 * of_name["accuracy_mean"])
    return result


def check_names(config: Config) -> None:
    """Checks the names of the networks, and what `checks.check_names` does.

    Raises:
      UserError: there are none, one is unknown or there twice, they are not of one
        shape, or fields exclude one another.
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
        checks.check_names(_with_network(config, name))
    if len(set(map(_shape, names))) > 1:
        raise UserError(
            "config.evaluation.network must name networks that differ in activation, "
            "or in which pooling they have, and in nothing else, got "
            f"{config.evaluation.network}."
        )


def split_names(names: str) -> list[str]:
    """Returns the names that commas join."""
    return names.split(",")


def _shape(name: str) -> Any:
    """Returns what networks must share to be trained side by side."""
    spec = parse_convnet_name(name)
    if spec is None:
        return name
    return (spec.depth, spec.width, spec.norm, spec.pooling == "none")


def _with_network(config: Config, name: str) -> Config:
    """Returns the config that evaluates with one network."""
    evaluation = dataclasses.replace(config.evaluation, network=name)
    return dataclasses.replace(config, evaluation=evaluation)


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


@dataclasses.dataclass(frozen=True)
class _Networks:
    """The networks of a run.

    Attributes:
      names: of the networks.
      module: all of them, see `side_by_side.join`.
      execution: how to run it.
      protocol: how to train it.
    """

    names: list[str]
    module: nn.Module
    execution: Execution
    protocol: Protocol


def _make_networks(config: Config, dataset: Dataset, layout: Layout) -> _Networks:
    names = split_names(config.evaluation.network)
    parts = [
        make_parts(_with_network(config, name), dataset, "evaluation", layout)
        for name in names
    ]
    modules, executions = zip(*parts, strict=True)
    protocol = make_protocol(
        config.evaluation, dataset_name=dataset.name, network_name=config.network.name
    )
    return _Networks(names, side_by_side.join(modules), executions[0], protocol)


def _on_sets(
    config: Config, dataset: Dataset, networks: _Networks, sets: list[SyntheticSet]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the accuracies on each set, `[E, N, names]`, and the seconds it took."""
    began = time.monotonic()
    module, execution = networks.module, networks.execution
    num, num_names = config.num_evaluations, len(networks.names)
    training = side_by_side.train_member(phases(networks.protocol, module, execution))
    is_mapped = execution.network_loop == "map"
    evaluator = Evaluator(
        dataset.test_images,
        dataset.test_labels,
        networks.protocol,
        compile_evaluation(training, module, execution),
        at_once=num_names * execution.layout.everything.size if is_mapped else None,
    )
    places = np.arange(num * num_names)
    counts = []
    total = len(sets) * evaluator.epochs(len(places))
    with (
        ends_at_once(lambda: "Nothing of this evaluation is saved."),
        Progress("Evaluating", total, unit="epochs") as progress,
    ):
        for experiment, synthetic in enumerate(sets):
            keys = evaluation_keys(config.seed, experiment, num)
            of_networks = (keys[places // num_names], places % num_names)
            counts.append(evaluator.count(synthetic, of_networks, progress))
    results = accuracies(np.stack(counts)).reshape(len(sets), num, num_names)
    return results, {"seconds": round(time.monotonic() - began, 3)}


def _on_everything(
    config: Config, folder: Path, dataset: Dataset, networks: _Networks
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the accuracies after training on the whole training set.

    They are `[1, N, names]`, or `[1, N]` if there is one name. Other fields of the
    result are as `train_and_test` returns them.
    """
    execution, check = networks.execution, check_finite
    training = train_by_phases(networks.protocol, networks.module, execution, dataset)
    if len(networks.names) > 1:
        training = side_by_side.train_side_by_side(
            training, len(networks.names), execution.network_loop
        )
        check = _check_any_is_finite
    trainer = WholeTrainer(
        config,
        folder,
        dataset,
        execution,
        networks.protocol,
        training,
        eval_every=config.eval_every,
        check=check,
    )
    return train_and_test(trainer, config.num_evaluations)


def _check_any_is_finite(state: WholeState, protocol: Protocol) -> None:
    """Checks networks that were trained side by side, and warns of each that failed.

    Raises:
      FloatingPointError: none of them is finite. The others classify by chance.
    """
    names, errors = split_names(protocol.network), []
    for place, name in enumerate(names):
        of_name = jax.tree.map(lambda leaf, place=place: leaf[place], state)
        try:
            check_finite(of_name, dataclasses.replace(protocol, network=name))
        except FloatingPointError as error:
            errors.append(error)
    if len(errors) == len(names):
        raise errors[0]
    for error in errors:
        logging.warning("%s", error)


def _make_result(
    config: Config, accuracies: np.ndarray, facts: dict[str, Any]
) -> dict[str, Any]:
    """Returns what `result.json` says of each network, and of all.

    Args:
      config: has the names of the networks.
      accuracies: `[E, N, names]`, or `[E, N]` of one name.
      facts: may have `accuracies_on_the_way`, of shape `[N, epochs, names]`.
    """
    names = split_names(config.evaluation.network)
    accuracies = accuracies.reshape(*accuracies.shape[:2], len(names))
    networks = {n: saving.summarise(accuracies[..., i]) for i, n in enumerate(names)}
    on_the_way = facts.pop("accuracies_on_the_way", None)
    if on_the_way is not None:
        on_the_way = np.reshape(on_the_way, (len(on_the_way), -1, len(names)))
        for place, of_name in enumerate(networks.values()):
            of_name["accuracies_on_the_way"] = on_the_way[..., place].tolist()
    return {"networks": networks, **facts}
