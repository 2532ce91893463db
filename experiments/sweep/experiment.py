"""Runs the cells of an experiment: on this machine one after another, or on Ray.

Every experiment is a module with `make_cells(config)` and `report(config, rows,
folder)`, and ends in `experiment.main(make_cells, report)`. The same command continues
an experiment: a cell that is done is not run again, and a cell that was stopped goes on
from its checkpoint.
"""

import importlib
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from dc_jax.errors import ERRORS, UserError, one_line
from dc_jax.files.paths import check_folder
from dc_jax.run.command_line import log_to_terminal, parse_flags, refuse
from experiments.sweep.cells import MAIN, ROOT, Cell
from experiments.sweep.mirror import Mirror
from experiments.sweep.processes import run_here
from experiments.sweep.ray_tasks import run_on_ray
from experiments.sweep.results import Row, check_is_ours, claim, read_rows, write_rows

MakeCells = Callable[[ConfigDict], list[Cell]]
MakeMore = Callable[[ConfigDict, list[Row]], list[Cell]]
Report = Callable[[ConfigDict, list[Row], Path], str]


def _none(config: ConfigDict, rows: list[Row]) -> list[Cell]:
    return []


def main(
    make_cells: MakeCells, report: Report, default: str, *, make_more: MakeMore = _none
) -> None:
    """Runs an experiment as a command.

    Args:
      make_cells: returns the runs of the experiment's config.
      report: writes tables and figures of the finished cells into a folder, and returns
        the table.
      default: the experiment's config, a file of `configs/`.
      make_more: returns the runs that follow from the rows of all other runs.
    """
    config = _define_flags(default)

    def run(argv: list[str]) -> None:
        _check_flags(argv)
        log_to_terminal()
        functions = (make_cells, report, make_more)
        try:
            run_all(config.value, *functions, options=flags.FLAGS, name=default)
        except ERRORS as error:
            sys.exit(f"error: {one_line(error)}")
        except KeyboardInterrupt:
            logging.info("Stopped by SIGINT. The same command continues.")
            sys.exit(128 + signal.SIGINT)

    def parse(argv: list[str]) -> list[str]:
        is_given = any(re.match(r"--?config(=|$)", argument) for argument in argv)
        if not is_given:  # It must come before the flags of its fields.
            argv = [argv[0], f"--config={ROOT / default}", *argv[1:]]
        return parse_flags(argv)

    app.run(run, flags_parser=parse)


def _define_flags(default: str) -> flags.FlagHolder:
    """Defines the flags of an experiment; returns that of the config."""
    # The flag has no default, because a default would be read before flags are parsed.
    config = config_flags.DEFINE_config_file(
        "config", None, f"The experiment. Default: {default}."
    )
    # Defined here, so that importing this module defines no flags.
    flags.DEFINE_string(
        "output",
        None,
        "Folder of the cells and results; may be in a bucket, as in gs://...",
    )
    flags.DEFINE_bool(
        "list", False, "Only print the commands of the cells that are not done."
    )
    flags.DEFINE_string(
        "ray",
        None,
        "Address of a Ray cluster, 'auto', or 'local' for a cluster of this machine.",
    )
    flags.DEFINE_list(
        "ray_resources", "CPU=2", "What Ray gives to each cell, as in CPU=8,GPU=1."
    )

    # So that `--help` shows them.
    for name in ("config", "output", "list", "ray", "ray_resources"):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    return config


def _check_flags(argv: list[str]) -> None:
    """Checks the flags of `main`.

    Raises:
      SystemExit: a flag is missing, or there is an argument that is no flag.
    """
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}.")
    if not flags.FLAGS.output:
        refuse("--output=FOLDER is needed.")
    if flags.FLAGS["ray_resources"].present and not flags.FLAGS.ray:
        refuse("--ray_resources needs --ray=ADDRESS.")


def run_all(
    config: ConfigDict,
    make_cells: MakeCells,
    report: Report,
    make_more: MakeMore = _none,
    *,
    options: flags.FlagValues,
    name: str,
) -> None:
    """Runs the cells of an experiment that are not done, or only prints their commands.

    Args:
      config: the experiment.
      make_cells, report, make_more: see `main`.
      options: the flags.
      name: of the experiment.

    Raises:
      UserError: the config or the output is unusable, or cells failed.
    """
    try:
        first = make_cells(config)
    except AttributeError as error:
        raise UserError(f"--config must be like {name}: {one_line(error)}") from error
    output = open_output(options)
    folder = output.folder
    check_is_ours(name, folder, options.output)
    check_cells(first, folder)

    def all_cells() -> list[Cell]:
        """Returns the cells, and if all are done those that follow from them."""
        rows = read_rows(first, folder)
        return first + make_more(config, rows) if len(rows) == len(first) else first

    cells = all_cells()
    if options.list:
        for cell in _open_cells(cells, folder):
            print(shlex.join(cell.command(folder)))
        return
    claim(name, folder)
    try:
        run_cells(cells, output, options)
        later = all_cells()
        if len(later) > len(cells):
            cells = later
            run_cells(cells, output, options)
    finally:  # Also if the experiment is stopped.
        print(report(config, write_rows(cells, folder), folder))
        output.push()


def open_output(options: flags.FlagValues) -> Mirror:
    """Returns the folder of the results, brought up to date.

    Raises:
      UserError: the output is a file, or a bucket with `--list`.
    """
    output = Mirror.open(options.output)
    if options.list and output.address:
        raise UserError(
            f"--list needs an --output that is a folder of all machines, got "
            f"{options.output}."
        )
    check_folder(output.folder, "--output")
    output.pull()
    return output


def _open_cells(cells: list[Cell], folder: Path) -> list[Cell]:
    """Returns the cells that are not done."""
    return [cell for cell in cells if cell.read_result(folder) is None]


def run_cells(cells: list[Cell], output: Mirror, options: flags.FlagValues) -> None:
    """Runs the cells that are not done.

    Raises:
      UserError: some failed.
    """
    open_cells = _open_cells(cells, output.folder)
    logging.info("Running %d of %d cells.", len(open_cells), len(cells))
    if options.ray and open_cells:
        results = run_on_ray(
            open_cells, output, address=options.ray, resources=options.ray_resources
        )
    else:
        results = run_here(open_cells, output)
    failed = []
    for cell, failure in results:
        if failure:
            failed.append(cell.name)
            logging.error("%s: %s", cell.name, failure)
        write_rows(cells, output.folder)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(cells)} cells failed ({', '.join(failed)}): see "
            f"log.txt in their folders. The same command tries them again."
        )


def check_cells(cells: list[Cell], folder: Path) -> None:
    """Checks all cells before any of them runs.

    Raises:
      UserError: two cells have one folder, a cell evaluates a set that no cell before
        it makes, a field is unknown or has a bad value, or a folder holds another run.
    """
    checks = {MAIN: _check_main}
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise UserError(f"two cells are named {cell.name}.")
        for other in cell.evaluates:
            if other.name not in seen:
                raise UserError(
                    f"{cell.name} evaluates {other.name}, which no cell makes before."
                )
        if cell.module not in checks:
            checks[cell.module] = importlib.import_module(cell.module).check
        checks[cell.module](cell.values(), folder / cell.name)
        seen.add(cell.name)


def _check_main(values: dict[str, Any], folder: Path) -> None:
    # These import JAX, which takes long.
    from dc_jax.config import Config
    from dc_jax.run import workdir
    from dc_jax.run.checks import check_names

    config = Config.create(values)
    check_names(config)
    workdir.check_is_ours(config, folder)
