"""Runs the cells of an experiment: here one after another, or as tasks of Ray.

Every experiment is a module with `make_cells(config)` and `report(config, rows,
folder)`, and ends in `sweep.main(make_cells, report)`. The command again continues: a
cell that is done is not run again, one that was stopped goes on from its checkpoint.
"""

import csv
import importlib
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from dc_jax.command_line import one_line, parse_flags
from experiments.cells import MAIN, ROOT, Cell
from experiments.mirror import Mirror

# The labels of a cell, and `result`: what its run has written.
Row = dict[str, Any]
_RESULTS = "results.csv"
# Besides the labels. The last says what the accuracy is of, where a cell has several.
_COLUMNS = ("accuracy", "std", "networks", "sets", "seconds", "of")
# A label, or where a cell trains networks of several names, which of them it is.
_NETWORK = "network"


def main(
    make_cells: Callable[[ConfigDict], list[Cell]],
    report: Callable[[ConfigDict, list[Row], Path], str],
    default: str,
    *,
    make_more: Callable[[ConfigDict, list[Row]], list[Cell]] = lambda *_: [],
) -> None:
    """Runs an experiment as a command.

    Args:
      make_cells: returns the runs of the experiment's config.
      report: writes tables and figures of what is done into a folder; returns the
        table.
      default: the experiment's config, a file of `configs/`.
      make_more: returns runs that follow from the rows of all the others.
    """
    # Without the default, which would be read, and fail, before flags are parsed.
    config = config_flags.DEFINE_config_file(
        "config", None, f"The experiment. Where it is not given, {default}."
    )
    # Here and not above: an import of this module is to define no flags.
    flags.DEFINE_string(
        "output", None, "Folder of cells and results; may be one in a bucket, gs://..."
    )
    flags.DEFINE_bool(
        "list", False, "Only print the commands of the cells that are not done."
    )
    flags.DEFINE_string(
        "ray",
        None,
        "Address of a Ray cluster, 'auto', or 'local' for one of this machine.",
    )
    flags.DEFINE_list(
        "ray_resources", "CPU=2", "What Ray gives to a cell, as CPU=8,GPU=1."
    )

    def run(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}.")
        if not flags.FLAGS.output:
            raise app.UsageError("--output=FOLDER is needed.")
        logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().setFormatter(None)
        try:
            cells = make_cells(config.value)
            rows = run_cells(config.value, cells, report, flags.FLAGS)
            if rows is not None:
                more = make_more(config.value, rows)
                if more:
                    run_cells(config.value, cells + more, report, flags.FLAGS)
        except (ValueError, KeyError, OSError) as error:
            sys.exit(f"error: {one_line(error)}")
        except KeyboardInterrupt:
            logging.info("Stopped by SIGINT. The same command continues.")
            sys.exit(128 + signal.SIGINT)

    def parse(argv: list[str]) -> list[str]:
        is_given = any(re.match(r"--?config(=|$)", argument) for argument in argv)
        return parse_flags(argv if is_given else [*argv, f"--config={ROOT / default}"])

    app.run(run, flags_parser=parse)


def run_cells(
    config: ConfigDict, cells: list[Cell], report: Any, options: flags.FlagValues
) -> list[Row] | None:
    """Runs the cells that are not done, or only prints their commands.

    Returns:
      The rows of all; None if not all are done.

    Raises:
      ValueError: some failed.
    """
    check_cells(cells)
    output = Mirror.open(options.output)
    if options.list and output.address:
        raise ValueError(
            f"--list needs an --output that is a folder of all machines, got "
            f"{options.output}."
        )
    folder = output.folder
    output.pull()
    check_is_ours(cells, folder, options.output)
    open_cells = [cell for cell in cells if cell.read_result(folder) is None]
    if options.list:
        for cell in open_cells:
            print(shlex.join(cell.command(folder)))
        return None if open_cells else write_rows(cells, folder)
    logging.info("%d of %d cells are to be run.", len(open_cells), len(cells))
    folder.mkdir(parents=True, exist_ok=True)
    if options.ray and open_cells:
        results = run_on_ray(
            open_cells, output, address=options.ray, resources=options.ray_resources
        )
    else:
        results = run_here(open_cells, output)
    failed = []
    try:
        for cell, failure in results:
            if failure:
                failed.append(cell.name)
                logging.error("%s: %s", cell.name, failure)
            write_rows(cells, folder)
    finally:  # Also where it is stopped.
        rows = write_rows(cells, folder)
        print(report(config, rows, folder))
        output.push()
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(cells)} cells failed ({', '.join(failed)}), see "
            f"log.txt in their folders; the same command tries them again."
        )
    return rows


def check_cells(cells: list[Cell]) -> None:
    """Checks the cells before any is run.

    Raises:
      ValueError: two have one folder, one is to evaluate what is not made before, or a
        value of a field is bad.
      KeyError: a field is not one of the config.
    """
    from dc_jax.config import Config  # Not before: it waits for JAX.

    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise ValueError(f"two cells are named {cell.name}.")
        for other in cell.evaluates:
            if other.name not in seen:
                raise ValueError(f"{cell.name} evaluates {other.name}: not there.")
        values = cell.values()
        if cell.module == MAIN:
            Config.create(values)
        seen.add(cell.name)


def check_is_ours(cells: list[Cell], folder: Path, output: str) -> None:
    """Checks that the folder of an output has no results of another experiment.

    Raises:
      ValueError: it has.
    """
    path, names = folder / _RESULTS, _label_names(cells)
    if path.exists():
        with open(path, encoding="utf-8", newline="") as file:
            head = next(csv.reader(file), [])
        if head[: len(names)] != names:
            raise ValueError(
                f"--output={output} has results of another experiment, by "
                f"{', '.join(head)}; choose another folder."
            )


def _label_names(cells: list[Cell]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells for name in cell.labels))


def run_here(cells: list[Cell], output: Mirror) -> Iterator[tuple[Cell, str | None]]:
    """Runs cells one after another; yields each with what went wrong, or None."""
    folder = output.folder
    for cell in cells:
        unmade = [c.name for c in cell.evaluates if c.read_result(folder) is None]
        if unmade:
            yield cell, f"there is no set of {', '.join(unmade)}."
            continue
        logging.info("%s", cell.name)
        log = folder / cell.name / "log.txt"
        code = _call(cell.command(folder), log)
        if code in (-signal.SIGINT, 128 + signal.SIGINT):
            raise KeyboardInterrupt
        if code == 0:
            cell.finish(folder)
        output.push(cell.name)  # The log of one that failed, too.
        yield cell, _last_line(log) if code else None


def _call(command: list[str], log: Path) -> int:
    """Runs a command, which ends with this process; returns its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
            process.terminate()  # It saves its state.
            process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"


def run_on_ray(
    cells: list[Cell], output: Mirror, *, address: str, resources: list[str]
) -> Iterator[tuple[Cell, str | None]]:
    """Runs cells as tasks of Ray; yields each as it ends, as `run_here` does.

    A task whose worker dies is given to another, and goes on from the last checkpoint,
    or begins anew where the machine is another and they share but a bucket.

    Args:
      cells: in an order in which sets come before their evaluations.
      output: a folder that all machines share, or a bucket.
      address: of a cluster, `auto`, or `local`.
      resources: for a task, each as NAME=NUMBER.

    Raises:
      ValueError: a resource is not of this form, or Ray is missing.
    """
    try:
        import ray  # Not before: few need it.
    except ImportError as error:
        raise ValueError('--ray needs: pip install -e ".[ray]"') from error

    options = _task_options(resources)
    ray.init(address=address, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    task = ray.remote(max_retries=3, max_calls=1, **options)(_run_cell)
    cores = max(1, int(options.get("num_cpus", 1)))
    try:
        tasks: dict[str, Any] = {}
        for cell in cells:
            before = [tasks[c.name] for c in cell.evaluates if c.name in tasks]
            tasks[cell.name] = task.remote(cell, output, cores, *before)
        waiting = {tasks[cell.name]: cell for cell in cells}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            cell = waiting.pop(done)
            try:
                ray.get(done)
                output.pull(cell.name)
                yield cell, None
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                yield cell, str(cause).strip().splitlines()[-1]
    finally:
        ray.shutdown()


def _task_options(resources: list[str]) -> dict[str, Any]:
    names = {"CPU": "num_cpus", "GPU": "num_gpus"}
    options: dict[str, Any] = {"resources": {}}
    for resource in resources:
        name, _, number = resource.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise ValueError(
                f"--ray_resources: must be NAME=NUMBER, got {resource!r}."
            ) from None
        if name in names:
            options[names[name]] = value
        else:
            options["resources"][name] = value
    return options


def _run_cell(cell: Cell, output: Mirror, cores: int, *_: Any) -> None:
    """Runs a cell in this process: with it, the lock of the workdir goes."""
    from dc_jax import parallel, runner
    from dc_jax.config import Config

    parallel.use_cpu_cores(cores)
    if output.address:  # The cache of this machine may be elsewhere.
        output = Mirror.open(output.address)
    if cell.evaluates:
        output.pull(*(other.name for other in cell.evaluates))
    values, own = cell.values(), str(output.folder / cell.name)
    sets = [str(output.folder / other.name) for other in cell.evaluates]
    if cell.module != MAIN:
        importlib.import_module(cell.module).run(values, own, *sets)
    elif sets:
        runner.evaluate(Config.create(values), *sets, folder=own)
    else:
        runner.condense(Config.create(values), own)
    cell.finish(output.folder)
    output.push(cell.name)


def write_rows(cells: list[Cell], folder: Path) -> list[Row]:
    """Writes the results of the cells that are done; returns the rows.

    `results.csv` has a line for each accuracy; `results.jsonl` has all that their runs
    have written.
    """
    rows, lines = [], []
    for cell in cells:
        result = cell.read_result(folder)
        if result is not None:
            rows.append({**cell.labels, "result": result})
            lines += [{**cell.labels, **line} for line in _lines(cell, result)]
    networks = [_NETWORK] if any(_NETWORK in line for line in lines) else []
    names = dict.fromkeys((*_label_names(cells), *networks, *_COLUMNS))
    with open(folder / _RESULTS, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)
    with open(folder / "results.jsonl", "w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    return rows


def _lines(cell: Cell, result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what `results.csv` tells of a cell, but its labels."""
    networks = result.get("networks", {None: result})
    shares = len(networks) * max(1, len(cell.evaluates))
    for name, of_network in networks.items():
        of_name = {} if name is None else {_NETWORK: name}
        for of, accuracies, sets in _parts(cell, of_network):
            yield of_name | {
                "accuracy": f"{100 * np.mean(accuracies):.2f}",
                "std": f"{100 * np.std(accuracies):.2f}",
                "networks": np.size(accuracies),
                "sets": sets,
                "seconds": round(result["seconds"] / shares, 3),
                "of": of,
            }


def _parts(cell: Cell, result: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Yields accuracies of a result: of what, as fractions, and of how many sets."""
    accuracies = result["accuracies"]
    if len(cell.evaluates) > 1:
        for other, of_set in zip(cell.evaluates, accuracies, strict=True):
            yield other.name, of_set, 1
        return
    yield "", accuracies, result["num_experiments"]
    if "own_protocol" in result:
        own = result["own_protocol"]
        yield "own training", own["accuracies"], own["num_experiments"]
    for number, accuracy in enumerate(result.get("accuracies_seen", [])[:-1], 1):
        yield f"tasks until {number}", accuracy, result["num_experiments"]
