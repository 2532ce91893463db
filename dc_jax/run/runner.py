"""A run from its config to its results: condenses, evaluates, and writes the files."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from dc_jax import report
from dc_jax.base import Method, SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices import processes
from dc_jax.devices.backend import Execution, use_compilation_cache
from dc_jax.devices.layout import Layout, make_layout
from dc_jax.evaluation.evaluator import (
    Evaluator,
    count_sets,
    evaluate_own,
    make_evaluator,
    make_sets,
)
from dc_jax.evaluation.protocol import Protocol, accuracies
from dc_jax.methods import BASELINES, make_method
from dc_jax.run import workdir
from dc_jax.run.baselines import check_baseline, choose_sets, whole_accuracies
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.loop import Loop
from dc_jax.run.setup import (
    check_fit,
    check_memory,
    check_names,
    load,
    log_choices,
    log_dataset,
    make_parts,
)
from dc_jax.run.signals import signals_kill
from dc_jax.sets import formats, set_file


def condense(
    config: Config, folder: str, *, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Condenses a dataset and evaluates the result, or continues where a run stopped.

    Args:
      config: the run.
      folder: for all that it writes; created where needed.
      dataset: to condense, of which `config.dataset` is then only to give the name.
        None: that of `config.dataset`.

    Returns:
      What is in `result.json`.

    Raises:
      UserError: the config or the dataset is unusable, or `folder` holds another run.
      FloatingPointError: the loss or the images stopped being finite.
      Stopped: by a signal; the state is saved.
    """
    folder = Path(folder)
    workdir.check_name(folder)
    result = processes.on_first(workdir.finished_result, config, folder, dataset)
    if result is None:
        dataset = _prepare(config, dataset)
        layout = make_layout(config, dataset.num_classes)
        evaluator = make_evaluator(config, dataset, layout)
        if config.method == "whole":
            check_baseline(config, dataset, layout)
            run = functools.partial(_run_whole, config, folder, layout, evaluator)
        else:
            make = _maker(config, folder, layout, evaluator)
            run = functools.partial(_run, config, folder, evaluator, make)
        with workdir.claimed(config, folder):
            result = run()
    else:
        logging.info("%s holds the finished run already.", folder)
        processes.on_first(report.write_if_missing, folder)
    workdir.log_result(result)
    return result


def make_first_set(
    config: Config, folder: str, dataset: Dataset
) -> tuple[SyntheticSet, Protocol]:
    """Makes the first set of a run and does not evaluate it.

    Args:
      config: the run; its method is not `whole`.
      folder: for checkpoints and metrics, as in `condense`.
      dataset: whose training split is condensed.

    Returns:
      The set, and how networks are to be trained on it.

    Raises:
      UserError, FloatingPointError, Stopped: as `condense`.
    """
    folder = Path(folder)
    workdir.check_name(folder)
    dataset = _prepare(config, dataset)
    layout = make_layout(config, dataset.num_classes)
    evaluator = make_evaluator(config, dataset, layout)
    make = _maker(config, folder, layout, evaluator)
    with workdir.claimed(config, folder):
        sets, _ = make()
    return sets[0], evaluator.protocol


def _maker(
    config: Config, folder: Path, layout: Layout, evaluator: Evaluator
) -> Callable[[], tuple[list[SyntheticSet], float]]:
    """Checks a run; returns what makes its sets, and tells the seconds it took."""
    dataset = evaluator.dataset
    if config.method in BASELINES:
        check_baseline(config, dataset, layout)
        return functools.partial(choose_sets, config, folder, dataset, layout)
    network, execution = make_parts(config, dataset, "network", layout)
    method = make_method(config, network, execution)
    log_choices(config, dataset, execution)
    return functools.partial(
        _condense_sets, config, folder, method, execution, evaluator
    )


def _prepare(config: Config, dataset: Dataset | None = None) -> Dataset:
    """Checks the config, and loads its dataset where none is given."""
    check_names(config)
    use_compilation_cache(config.execution)
    if dataset is None:
        dataset = load(config)
    log_dataset(dataset)
    check_memory(config, dataset)
    processes.check_same("the dataset", dataset.checksum())
    return dataset


def _condense_sets(
    config: Config,
    folder: Path,
    method: Method,
    execution: Execution,
    evaluator: Evaluator,
) -> tuple[list[SyntheticSet], float]:
    """Returns the sets of all experiments, and the seconds it took."""
    dataset = evaluator.dataset
    checkpointer = Checkpointer(folder / "checkpoints")
    loop = Loop(config, folder, checkpointer, dataset)
    state, seconds = loop.run(method, execution, evaluator)
    return make_sets(config, state, dataset), seconds


def _run(
    config: Config,
    folder: Path,
    evaluator: Evaluator,
    make: Callable[[], tuple[list[SyntheticSet], float]],
) -> dict[str, Any]:
    """Makes sets, evaluates and saves them; returns the result."""
    sets, seconds = make()
    facts = {} if config.method in BASELINES else {"iterations": config.iterations}
    return _finish(config, folder, evaluator, sets, seconds, **facts)


def _run_whole(
    config: Config, folder: Path, layout: Layout, evaluator: Evaluator
) -> dict[str, Any]:
    """Trains on everything and saves the result, which it returns."""
    of_whole, facts = whole_accuracies(
        config, folder, evaluator.dataset, layout, evaluator.protocol
    )
    result = workdir.summarise(of_whole)
    return _save(config, folder, evaluator, [], result, **facts)


def _finish(
    config: Config,
    folder: Path,
    evaluator: Evaluator,
    sets: list[SyntheticSet],
    seconds: float,
    **facts: float,
) -> dict[str, Any]:
    """Evaluates and saves sets that were made in so many seconds."""
    began = time.monotonic()
    with signals_kill():
        result, counts = _evaluate(config, evaluator, sets)
    return _save(
        *(config, folder, evaluator, sets, result, counts),
        **facts,
        training_images=int(np.sum(sets[0].labels >= 0)),
        seconds=round(seconds + time.monotonic() - began, 3),
        seconds_condense=round(seconds, 3),
    )


def _evaluate(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the accuracies of sets, and by `own_protocol` where they have one.

    And what their networks take for what, `[E, N, C, C]`.
    """
    counts = count_sets(config, evaluator, sets)
    result = workdir.summarise(accuracies(counts))
    own = evaluate_own(config, evaluator, sets)
    if own is not None:
        result["own_protocol"] = workdir.summarise(own)
    return result, counts


def _save(
    config: Config,
    folder: Path,
    evaluator: Evaluator,
    sets: list[SyntheticSet],
    result: dict[str, Any],
    counts: np.ndarray | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Saves what a run leaves behind; returns the result."""
    result = {
        **result,
        "protocol": dataclasses.asdict(evaluator.protocol),
        **facts,
    }
    processes.on_first(
        workdir.save_run,
        *(config, folder, evaluator.dataset),
        protocol=evaluator.protocol,
        sets=sets,
        result=result,
    )
    processes.on_first(report.finish, folder, evaluator.dataset, sets, counts)
    return result


def evaluate(
    config: Config, *set_paths: str, folder: str | None = None
) -> dict[str, Any]:
    """Evaluates saved sets on the test split of the config's dataset.

    One program does it for all sets of a size.

    Args:
      config: its dataset, network and evaluation.
      *set_paths: each a `synthetic_set.npz`, or the folder of a run for all of its
        sets.
      folder: where given, a line is added to `evaluations.jsonl` there.

    Returns:
      The accuracies.

    Raises:
      UserError: the set or the config is unusable, or they do not fit.
    """
    sets = [(one, path) for path in set_paths for one in _load_sets(path)]
    dataset = _prepare(config)
    for one, path in sets:
        check_fit(one, dataset, path)
    layout = make_layout(config, dataset.num_classes)
    evaluator = make_evaluator(config, dataset, layout)
    for one, path in sets:
        evaluator.log_recipe(one, path)
    began = time.monotonic()
    result, _ = _evaluate(config, evaluator, [one for one, _ in sets])
    result |= {
        "seconds": round(time.monotonic() - began, 3),
        "set": ",".join(map(str, set_paths)),
        "protocol": dataclasses.asdict(evaluator.protocol),
    }
    if folder:
        processes.on_first(workdir.add_evaluation, Path(folder), result)
        processes.on_first(report.write_if_possible, Path(folder))
    workdir.log_result(result)
    return result


def _load_sets(path: str) -> list[SyntheticSet]:
    """Loads sets on the first process, for all."""

    def load() -> list[dict[str, Any]]:
        if os.path.isdir(path):
            sets = set_file.load_synthetic_sets(path)
        else:
            sets = [formats.load_synthetic_set(path)]
        # A tuple cannot be sent.
        return [vars(one) | {"class_names": [*one.class_names]} for one in sets]

    return [
        SyntheticSet(**fields | {"class_names": tuple(fields["class_names"])})
        for fields in processes.on_first(load)
    ]
