"""Learns a sequence of tasks with a memory of condensed or chosen images.

  python -m experiments.continual_run --config=configs/continual.py \
      --workdir=runs/continual --config.condense.method=herding

The same command again continues a run that was stopped, after the last task that it has
learned. In the workdir: networks (after each task), memory_1 and so on (each the folder
of a run of `dc_jax.main`) and result.json.
"""

import json
import logging as std_logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from dc_jax.command_line import one_line, parse_flags


def main() -> None:
    """Runs the command."""
    config = config_flags.DEFINE_config_file(
        "config", "configs/continual.py", "The run.", lock_config=True
    )
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string(
        "set", None, "Workdir of another run, finished, whose memories are used."
    )

    def command(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}.")
        logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().setFormatter(None)
        std_logging.getLogger("jax").setLevel(std_logging.WARNING)
        from dc_jax import parallel
        from dc_jax.progress import Stopped

        parallel.use_cpu_cores()
        try:
            run(config.value.to_dict(), flags.FLAGS.workdir, sets=flags.FLAGS.set)
        except (ValueError, OSError, FloatingPointError) as error:
            sys.exit(f"error: {one_line(error)}")
        except Stopped as stopped:
            logging.info("%s", stopped)
            sys.exit(stopped.exit_code)

    app.run(command, flags_parser=parse_flags)


def run(
    values: dict[str, Any], folder: str, *, sets: str | None = None
) -> dict[str, Any]:
    """Learns all tasks, or continues where a run stopped.

    Args:
      values: of the config.
      folder: for all that it writes; created where needed.
      sets: folder of a finished run of the same tasks, whose memories are used; None
        makes them.

    Returns:
      What is in `result.json`.

    Raises:
      ValueError: the config or a dataset is unusable, or `folder` holds another run.
      FileNotFoundError: a file of a dataset, or a memory, is missing.
      FloatingPointError: a network or a memory stopped being finite.
      Stopped: by a signal; the tasks learned before are saved.
    """
    from dc_jax import artefact, workdir
    from experiments.continual_config import ContinualConfig

    config, folder = ContinualConfig.create(values), Path(folder)
    with workdir.locked(folder):
        workdir.claim(config, folder)
        path = folder / "result.json"
        if path.exists():
            logging.info("%s holds the finished run already.", folder)
            return json.loads(path.read_text("utf-8"))
        result = _learn_all(config, folder, Path(sets) if sets else folder)
        artefact.write_json(path, result)
    return result


def _learn_all(config: Any, folder: Path, sets: Path) -> dict[str, Any]:
    """Learns the tasks that are left; returns the result.

    Args:
      config: of the run.
      folder: of the run.
      sets: whose memories are used; where it is `folder`, they are made.
    """
    from dc_jax import workdir
    from dc_jax.checkpoint import Checkpointer
    from dc_jax.execution import use_compilation_cache
    from experiments.learner import Learner

    use_compilation_cache(config.condense.execution)
    dataset, tasks = make_tasks(config)
    learner = Learner(config, dataset, tasks)
    checkpointer = Checkpointer(folder / "networks", keep=len(tasks))
    variables, memory, meta = learner.init(), [], {"accuracies": [], "seconds": 0.0}
    try:
        restored = checkpointer.restore(variables)
        if restored is not None:
            variables, meta = restored.state, restored.meta
            logging.info("Continuing after task %d of %d.", restored.step, len(tasks))
        accuracies, before = meta["accuracies"], time.monotonic() - meta["seconds"]
        for number in range(len(accuracies), len(tasks)):
            while len(memory) < number:
                memory.append(_remember(config, folder, sets, len(memory), tasks))
            variables = learner.learn(number, variables, memory)
            accuracies.append(
                [learner.test(seen, variables) for seen in range(number + 1)]
            )
            _log(accuracies, len(tasks))
            meta = {"accuracies": accuracies, "seconds": time.monotonic() - before}
            checkpointer.save(number + 1, variables, meta)
            checkpointer.wait()
    finally:
        checkpointer.close()
    seen = [float(np.mean(line)) for line in accuracies]
    return {
        **workdir.summarise(np.array([[seen[-1]]])),
        "accuracies_seen": seen,
        "accuracies_tasks": accuracies,
        "tasks": [task.dataset.source for task in tasks],
        "seconds": round(meta["seconds"], 3),
    }


def make_tasks(config: Any) -> tuple[Any, list[Any]]:
    """Returns the tasks, after a dataset that has the classes and shape of all.

    Raises:
      ValueError: a dataset is unusable, or they do not go together.
      FileNotFoundError: a file is missing.
    """
    from experiments import tasks

    datasets, shape = [], config.shape()
    for name in config.task_names():
        dataset = tasks.load(
            name, image_shape=shape, path=config.path, usps=config.usps
        )
        shape = dataset.image_shape
        datasets.append(dataset)
    if config.class_steps:
        rng = np.random.default_rng(config.seed)
        sequence = tasks.class_tasks(datasets[0], config.class_steps, rng)
    else:
        sequence = tasks.dataset_tasks(datasets)
    return datasets[0], [
        task._replace(dataset=tasks.limit_test(task.dataset, config.max_test))
        for task in sequence
    ]


def _remember(
    config: Any, folder: Path, sets: Path, number: int, tasks: list[Any]
) -> Any:
    """Returns the memory of a task, which is made first where it is the run's own."""
    from dc_jax import artefact, runner
    from dc_jax.parts import check_fit

    dataset, own = tasks[number].dataset, sets / f"memory_{number + 1}"
    if sets == folder:
        logging.info("The memory of task %d of %d:", number + 1, len(tasks))
        runner.condense(config.condensing(dataset.name), str(own), dataset=dataset)
    memory = artefact.load_synthetic_set(own)
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
    main()
