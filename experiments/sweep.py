"""Runs the cells of an experiment: here one after another, or as tasks of Ray.

Every experiment is a module with `make_cells(config)` and `report(config, rows,
folder)`, and ends in `sweep.main(make_cells, report)`. The command again continues: a
cell that is done is not run again, one that was stopped goes on from its checkpoint.
"""

import importlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from dc_jax.command_line import one_line, parse_flags
from experiments.cells import MAIN, ROOT, Cell
from experiments.mirror import Mirror
from experiments.ray_tasks import run_on_ray
from experiments.results import Row, check_is_ours, write_rows


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

    creates = {MAIN: Config.create}
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise ValueError(f"two cells are named {cell.name}.")
        for other in cell.evaluates:
            if other.name not in seen:
                raise ValueError(f"{cell.name} evaluates {other.name}: not there.")
        if cell.module not in creates:
            creates[cell.module] = importlib.import_module(cell.module).check
        creates[cell.module](cell.values())
        seen.add(cell.name)


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
