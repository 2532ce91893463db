"""Learns a sequence of tasks with a memory of condensed or chosen images.

  python -m experiments.continual_learning.run --workdir=runs/continual \
      --config=configs/experiments/continual_run.py --config.condense.method=herding

The same command continues a run that was stopped, after the last task that it learned.
The workdir holds the networks after each task, memory_1 and so on (each the folder of a
run of `dc_jax.main`), and result.json.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.data.dataset import Dataset
from dc_jax.devices.compilation_cache import use_compilation_cache
from dc_jax.errors import UserError
from dc_jax.files.content import read_json, write_json
from dc_jax.run import runner, saving, workdir
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.checks import check_fit
from dc_jax.run.setup import with_whitening
from dc_jax.sets import set_file
from experiments.continual_learning.config import ContinualConfig
from experiments.continual_learning.learner import Learner
from experiments.continual_learning.tasks import (
    Task,
    class_tasks,
    dataset_tasks,
    limit_test,
    load,
)
from experiments.sweep import command


def check(values: dict[str, Any], folder: Path) -> None:
    """Checks the values of a config, and that the folder holds no other run.

    Raises:
      UserError: a value is bad, or the folder holds another run.
    """
    workdir.check_is_ours(ContinualConfig.create(values), folder)


def run(values: dict[str, Any], folder: str, *sets: str) -> dict[str, Any]:
    """Learns all tasks, or continues where a run stopped.

    Args:
      values: of the config.
      folder: for all that the run writes; created where needed.
      *sets: at most one folder of a finished run of the same tasks, whose memories are
        used. None: the run makes its own memories.

    Returns:
      What is in `result.json`.

    Raises:
      UserError: the config or a dataset is unusable, `folder` holds another run, or
        there is more than one folder of memories.
      FileNotFoundError: a memory or a file of a dataset is missing.
      FloatingPointError: a network or a memory became NaN or infinite.
      Stopped: a signal stopped the run; the tasks learned before are saved.
    """
    if len(sets) > 1:
        raise UserError(f"--set must be one folder, got {', '.join(sets)}.")
    config, folder = ContinualConfig.create(values), Path(folder)
    with workdir.locked(folder):
        workdir.claim(config, folder)
        path = folder / "result.json"
        result = read_json(path)
        if result is not None:
            logging.info("%s already holds the finished run.", folder)
            return result
        result = _learn_all(config, folder, Path(sets[0]) if sets else folder)
        write_json(path, result)
    return result


def _learn_all(config: ContinualConfig, folder: Path, sets: Path) -> dict[str, Any]:
    """Learns the tasks that are left; returns the result.

    Args:
      config: of the run.
      folder: of the run.
      sets: folder whose memories are used; if it is `folder`, they are made.
    """
    use_compilation_cache(config.condense.execution)
    dataset, tasks = make_tasks(config)
    learner = Learner(config, dataset, tasks)
    checkpointer = Checkpointer(folder / "networks", keep=len(tasks))
    variables, memory, meta = learner.init(), [], {"accuracies": [], "seconds": 0.0}
    restored = checkpointer.restore(variables)
    if restored is not None:
        variables, meta = restored.state, restored.meta
        logging.info("Continuing after task %d of %d.", restored.step, len(tasks))
    accuracies, began = meta["accuracies"], time.monotonic() - meta["seconds"]
    for number in range(len(accuracies), len(tasks)):
        while len(memory) < number:
            memory.append(_remember(config, folder, sets, len(memory), tasks))
        variables = learner.learn(number, variables, memory)
        seen = range(number + 1)
        accuracies.append([learner.test(task, variables) for task in seen])
        _log(accuracies, len(tasks))
        meta = {"accuracies": accuracies, "seconds": time.monotonic() - began}
        checkpointer.save(number + 1, variables, meta)
    return _make_result(tasks, accuracies, meta["seconds"])


def _make_result(
    tasks: list[Task], accuracies: list[list[float]], seconds: float
) -> dict[str, Any]:
    """Returns, after each task, the accuracies on the tasks seen and their mean."""
    seen = [float(np.mean(line)) for line in accuracies]
    return {
        **saving.summarise(np.array([[seen[-1]]])),
        "accuracies_seen": seen,
        "accuracies_tasks": accuracies,
        "tasks": [
            {"dataset": task.dataset.name, "classes": [*task.dataset.class_names]}
            for task in tasks
        ],
        "seconds": round(seconds, 3),
    }


def make_tasks(config: ContinualConfig) -> tuple[Dataset, list[Task]]:
    """Returns a dataset with the classes and image shape of all tasks, and the tasks.

    Raises:
      UserError: a dataset is unusable, or the datasets do not fit together.
      FileNotFoundError: a file is missing.
    """
    datasets, shape = [], config.shape()
    for name in config.task_names():
        dataset = load(name, image_shape=shape, path=config.path, usps=config.usps)
        shape = dataset.image_shape
        datasets.append(dataset)
    datasets[0] = with_whitening(config.condense, datasets[0])
    if config.class_steps:
        rng = np.random.default_rng(config.seed)
        sequence = class_tasks(datasets[0], config.class_steps, rng)
    else:
        sequence = dataset_tasks(datasets)
    return datasets[0], [
        task._replace(dataset=limit_test(task.dataset, config.max_test))
        for task in sequence
    ]


def _remember(
    config: ContinualConfig, folder: Path, sets: Path, number: int, tasks: list[Task]
) -> SyntheticSet:
    """Returns the memory of a task; makes it first if it is the run's own."""
    dataset, own = tasks[number].dataset, sets / f"memory_{number + 1}"
    if sets == folder:
        logging.info("The memory of task %d of %d:", number + 1, len(tasks))
        runner.condense(config.condensing(dataset.name), str(own), dataset=dataset)
    memory = set_file.load_synthetic_set(own)
    check_fit(memory, dataset, str(own))
    return memory


def _log(accuracies: list[list[float]], num_tasks: int) -> None:
    """Logs the accuracies after a task."""
    last = accuracies[-1]
    logging.info(
        "After task %d of %d: %.2f%% on the tasks seen (%s).",
        *(len(last), num_tasks, 100 * np.mean(last)),
        ", ".join(f"{100 * one:.2f}" for one in last),
    )


if __name__ == "__main__":
    command.main(
        run,
        "configs/experiments/continual_run.py",
        sets="Workdir of a finished run whose memories are used.",
    )
