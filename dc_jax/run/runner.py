"""A run from its config to its results: condenses, evaluates, and writes the files."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dc_jax import report
from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices import processes
from dc_jax.devices.backend import fixed_numerics
from dc_jax.evaluation.protocol import Protocol
from dc_jax.files.paths import user_path
from dc_jax.methods import BASELINES, make_method
from dc_jax.progress import Progress
from dc_jax.run import (
    baselines,
    experts,
    finished,
    own_files,
    random_baseline,
    repair,
    saving,
    workdir,
)
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.checks import check_fit
from dc_jax.run.evaluation import (
    evaluate_sets,
    log_recipe,
    log_whitening,
    make_evaluator,
)
from dc_jax.run.load_sets import load_sets
from dc_jax.run.loop import Loop
from dc_jax.run.set_trainer import Evaluator
from dc_jax.run.setup import Setup, log_choices, make_setup
from dc_jax.run.signals import deferred, ends_at_once, tell_saved
from dc_jax.sets import set_file

# Makes the sets of a run; also returns other fields of the result, `seconds_condense`
# among them.
Make = Callable[[], tuple[list[SyntheticSet], dict[str, Any]]]


@fixed_numerics()
def condense(
    config: Config, folder: str, *, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Condenses a dataset and evaluates the result, or continues where a run stopped.

    Args:
      config: the run.
      folder: for all that it writes; created where needed.
      dataset: to condense; `config.dataset` then only gives its name.

    Returns:
      What is in `result.json`.

    Raises:
      UserError: the config or the dataset is unusable, or `folder` holds another run.
      FloatingPointError: the loss or the images stopped being finite.
      Stopped: by a signal; the state is saved.
    """
    folder = user_path(folder, "--workdir")
    workdir.check_name(folder)
    with ends_at_once(lambda: _saved(folder)):
        result = processes.on_first(finished.finished_result, config, folder, dataset)
        if result is None:
            result = _condense(config, folder, dataset)
        elif _is_incomplete(config, folder, result):
            setup = make_setup(config, dataset)
            processes.on_first(finished.check_images, folder, setup.dataset)
            with workdir.claimed(config, folder):
                result = _end(setup, make_evaluator(setup), folder, result)
        else:
            processes.on_first(report.refresh, folder)
    saving.log_result(result)
    return result


def _is_incomplete(config: Config, folder: Path, result: dict[str, Any]) -> bool:
    """Whether what follows the result of a run is yet to be made, see `_end`."""
    if random_baseline.is_missing(config, result):
        return True
    return processes.on_first(finished.lacks_neighbours, config, folder)


def _condense(config: Config, folder: Path, dataset: Dataset | None) -> dict[str, Any]:
    """Makes a run that is not finished; returns its result."""
    processes.on_first(workdir.check_is_free, config, folder)
    setup = make_setup(config, dataset)
    if config.method == "whole":
        baselines.check_baseline(setup)
        with workdir.claimed(config, folder):
            accuracies, facts = baselines.whole_accuracies(setup, folder)
            result = _save(setup, folder, [], saving.summarise(accuracies) | facts)
            return _end(setup, None, folder, result)
    evaluator = make_evaluator(setup)
    make = _maker(setup, evaluator, folder)
    with workdir.claimed(config, folder):
        return _run(setup, evaluator, folder, make)


def _saved(folder: Path) -> str:
    """Says what the last command in a folder has saved, before its sets are made."""
    steps = Checkpointer(folder / "checkpoints").steps()
    return tell_saved(steps[-1] if steps else 0, folder)


@fixed_numerics()
def make_first_set(
    config: Config, folder: str, dataset: Dataset
) -> tuple[SyntheticSet, Protocol]:
    """Makes the first set of a run, whose method is not `whole`; see `condense`.

    Returns the set, which is not evaluated, and how networks are to be trained on it.
    """
    folder = user_path(folder, "--workdir")
    workdir.check_name(folder)
    processes.on_first(workdir.check_is_free, config, folder)
    setup = make_setup(config, dataset)
    make = _maker(setup, make_evaluator(setup), folder, is_evaluated_after=False)
    with workdir.claimed(config, folder):
        sets, _ = make()
    return sets[0], setup.protocol


@fixed_numerics()
def evaluate(
    config: Config, *set_paths: str, folder: str | None = None
) -> list[dict[str, Any]]:
    """Evaluates saved sets on the test split of the config's dataset.

    Args:
      config: its dataset, network and evaluation.
      *set_paths: each a `synthetic_set.npz`, or the folder of a run for all of its
        sets.
      folder: where given, a line for each path is added to `evaluations.jsonl` there.

    Returns:
      The accuracies of each path.

    Raises:
      UserError: the set or the config is unusable, or they do not fit.
    """
    folder = user_path(folder, "--workdir") if folder else None
    if folder:
        processes.on_first(own_files.check_evaluations, folder)
    name = config.dataset.name
    with ends_at_once(lambda: "The set is as it was; nothing is saved."):
        sets = {str(path): load_sets(path, name) for path in set_paths}
        # A set has its own whitening: that of the training images is not looked for.
        plain = dataclasses.replace(config.dataset, zca=False)
        setup = make_setup(dataclasses.replace(config, dataset=plain))
        for path, of_path in sets.items():
            for one in of_path:
                check_fit(one, setup.dataset, path)
                log_recipe(setup.protocol, one, path)
                log_whitening(config, one, path)
        evaluator = make_evaluator(setup)
        results = [_evaluate(setup, evaluator, *one) for one in sets.items()]
    for result in results:
        if folder:
            processes.on_first(saving.add_evaluation, folder, result)
        saving.log_result(result, result["set"] if len(results) > 1 else "")
    if folder:
        processes.on_first(report.write_if_possible, folder)
    return results


def _evaluate(
    setup: Setup, evaluator: Evaluator, path: str, sets: list[SyntheticSet]
) -> dict[str, Any]:
    """Returns the result of the sets of a path."""
    began = time.monotonic()
    result, _ = evaluate_sets(setup.config, evaluator, sets)
    return result | {
        "seconds": round(time.monotonic() - began, 3),
        "set": path,
        "protocol": dataclasses.asdict(setup.protocol),
    }


def _maker(
    setup: Setup, evaluator: Evaluator, folder: Path, *, is_evaluated_after: bool = True
) -> Make:
    """Checks a run; returns what makes its sets."""
    config = setup.config
    if config.method in BASELINES:
        baselines.check_baseline(setup)
        return functools.partial(baselines.choose_sets, setup, folder)
    method = make_method(config, setup.network, setup.execution)
    log_choices(setup)
    checkpointer = Checkpointer(folder / "checkpoints")
    loop = Loop(setup, evaluator, folder, checkpointer, is_evaluated_after)
    make = functools.partial(loop.run, method)
    if method.snapshots:
        arguments = (setup, folder, method.snapshots, make)
        make = functools.partial(experts.condense_with_experts, *arguments)
    if config.labels == "soft":
        return functools.partial(baselines.label_sets, setup, folder, make)
    return make


def _run(
    setup: Setup, evaluator: Evaluator, folder: Path, make: Make
) -> dict[str, Any]:
    """Makes sets, evaluates and saves them; returns the result."""
    sets, facts = make()
    began = time.monotonic()
    arguments = (setup.config, folder, setup.dataset)
    processes.on_first(repair.hold_sets, *arguments, setup.protocol, sets)
    # Where a finished run lost a set, that is all it lost.
    result = processes.on_first(finished.finished_result, *arguments)
    if result is not None:
        return _end(setup, evaluator, folder, result)
    where = f"{folder / set_file.SET_NAME} and images.png"
    saved = f"{where} are saved; the same command evaluates the set."
    with ends_at_once(lambda: saved):
        result, counts = evaluate_sets(setup.config, evaluator, sets)
    if sets[0].soft_labels is not None:  # How many each image has.
        result["soft_labels"] = len(sets[0].class_names)
    seconds = facts.pop("seconds_condense")
    result |= facts | {
        "training_images": int(np.sum(sets[0].labels >= 0)),
        "seconds": round(seconds + time.monotonic() - began, 3),
        "seconds_condense": round(seconds, 3),
    }
    result = _save(setup, folder, sets, result, counts)
    return _end(setup, evaluator, folder, result)


def _save(
    setup: Setup,
    folder: Path,
    sets: list[SyntheticSet],
    result: dict[str, Any],
    counts: np.ndarray | None = None,
) -> dict[str, Any]:
    """Saves what was evaluated; returns the result."""
    result = {**result, "protocol": dataclasses.asdict(setup.protocol)}
    with (
        ends_at_once(lambda: _goes_on(folder)),
        deferred(),
        Progress("Saving the result"),
    ):
        processes.on_first(
            saving.save_run,
            setup.config,
            folder,
            setup.dataset,
            protocol=setup.protocol,
            sets=sets,
            result=result,
            counts=counts,
        )
    return result


def _end(
    setup: Setup, evaluator: Evaluator | None, folder: Path, result: dict[str, Any]
) -> dict[str, Any]:
    """Makes what follows the result of a run, and the report; returns the result.

    First it finds the nearest training images, then it evaluates random ones. The
    evaluator is None where random images are not evaluated.
    """
    if processes.on_first(finished.lacks_neighbours, setup.config, folder):
        title = "Finding the nearest training images"
        with ends_at_once(lambda: _goes_on(folder)), Progress(title):
            processes.on_first(finished.add_neighbours, folder, setup.dataset)
    if random_baseline.is_missing(setup.config, result):
        saving.log_result(result)
        with ends_at_once(lambda: _goes_on(folder)):
            random = random_baseline.evaluate_random(setup, evaluator, folder)
            result = processes.on_first(random_baseline.save, folder, result, random)
    saved = f"The result is saved in {folder}; the same command writes the report."
    with ends_at_once(lambda: saved), Progress("Writing the report"):
        processes.on_first(report.write_if_possible, folder)
    return result


def _goes_on(folder: Path) -> str:
    return f"The result is saved in {folder}; the same command goes on from there."
