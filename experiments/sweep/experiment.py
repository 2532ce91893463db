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

from dc_jax.errors import UserError, one_line
from dc_jax.run.command_line import parse_flags
from experiments.sweep.cells import MAIN, ROOT, Cell
from experiments.sweep.mirror import Mirror
from experiments.sweep.ray_tasks import run_on_ray
from experiments.sweep.results import Row, check_is_ours, claim, read_rows, write_rows


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

    # `--help` shows them.
    for name in ("config", "output", "list", "ray", "ray_resources"):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

    def run(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}.")
        if not flags.FLAGS.output:
            raise app.UsageError("--output=FOLDER is needed.")
        if flags.FLAGS["ray_resources"].present and not flags.FLAGS.ray:
            raise app.UsageError("--ray_resources needs --ray=ADDRESS.")
        logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().setFormatter(None)
        try:
            run_all(
                config.value,
                make_cells,
                report,
                flags.FLAGS,
                make_more=make_more,
                name=default,
            )
        except (ValueError, KeyError, OSError) as error:
            sys.exit(f"error: {one_line(error)}")
        except KeyboardInterrupt:
            logging.info("Stopped by SIGINT. The same command continues.")
            sys.exit(128 + signal.SIGINT)

    def parse(argv: list[str]) -> list[str]:
        is_given = any(re.match(r"--?config(=|$)", argument) for argument in argv)
        if not is_given:  # Before the flags of its fields.
            argv = [argv[0], f"--config={ROOT / default}", *argv[1:]]
        return parse_flags(argv)

    app.run(run, flags_parser=parse)


def run_all(
    config: ConfigDict,
    make_cells: Callable[[ConfigDict], list[Cell]],
    report: Callable[[ConfigDict, list[Row], Path], str],
    options: flags.FlagValues,
    *,
    make_more: Callable[[ConfigDict, list[Row]], list[Cell]] = lambda *_: [],
    name: str,
) -> None:
    """Runs an experiment's cells that are not done, or only prints their commands.

    Args:
      config: the experiment; for the others, see `main`.
      options: the flags.
      name: of the experiment.

    Raises:
      UserError: the config is another experiment's, the output is unusable, or cells
        failed.
    """
    try:
        first = make_cells(config)
    except AttributeError as error:
        raise UserError(
            f"--config is not one of {name}, which has what this lacks: "
            f"{one_line(error)}"
        ) from error
    output = open_output(options)
    folder = output.folder
    check_is_ours(name, folder, options.output)
    check_cells(first, folder)
    cells = _and_more(config, first, make_more, folder)
    if options.list:
        for cell in cells:
            if cell.read_result(folder) is None:
                print(shlex.join(cell.command(folder)))
        return
    claim(name, folder)
    try:
        run_cells(cells, output, options)
        later = _and_more(config, first, make_more, folder)
        if len(later) > len(cells):
            cells = later
            run_cells(cells, output, options)
    finally:  # Also where it is stopped.
        print(report(config, write_rows(cells, folder), folder))
        output.push()


def open_output(options: flags.FlagValues) -> Mirror:
    """Returns the folder of the results, as it is.

    Raises:
      UserError: it is a file, or a bucket with `--list`.
    """
    output = Mirror.open(options.output)
    if options.list and output.address:
        raise UserError(
            f"--list needs an --output that is a folder of all machines, got "
            f"{options.output}."
        )
    for part in (output.folder, *output.folder.parents):
        if part.exists() and not part.is_dir():
            raise UserError(f"--output={options.output}: {part} is no folder.")
    output.pull()
    return output


def _and_more(
    config: ConfigDict, cells: list[Cell], make_more: Any, folder: Path
) -> list[Cell]:
    """Returns the cells, and where all are done those that follow from them."""
    rows = read_rows(cells, folder)
    return cells + make_more(config, rows) if len(rows) == len(cells) else cells


def run_cells(cells: list[Cell], output: Mirror, options: flags.FlagValues) -> None:
    """Runs the cells that are not done.

    Raises:
      UserError: some failed.
    """
    open_cells = [cell for cell in cells if cell.read_result(output.folder) is None]
    logging.info("%d of %d cells are to be run.", len(open_cells), len(cells))
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
            f"{len(failed)} of {len(cells)} cells failed ({', '.join(failed)}), see "
            f"log.txt in their folders; the same command tries them again."
        )


def check_cells(cells: list[Cell], folder: Path) -> None:
    """Checks the cells before any is run.

    Raises:
      UserError: two have one folder, one is to evaluate what is not made before, a
        value of a field is bad, or a folder is another run's.
      KeyError: a field is not one of the config.
    """
    checks = {MAIN: _check_main}
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise UserError(f"two cells are named {cell.name}.")
        for other in cell.evaluates:
            if other.name not in seen:
                raise UserError(f"{cell.name} evaluates {other.name}: not there.")
        if cell.module not in checks:
            checks[cell.module] = importlib.import_module(cell.module).check
        checks[cell.module](cell.values(), folder / cell.name)
        seen.add(cell.name)


def _check_main(values: dict[str, Any], folder: Path) -> None:
    # Not before: they wait for JAX.
    from dc_jax.config import Config
    from dc_jax.run import workdir
    from dc_jax.run.checks import check_names

    config = Config.create(values)
    check_names(config)
    workdir.check_is_ours(config, folder)


def run_here(cells: list[Cell], output: Mirror) -> Iterator[tuple[Cell, str | None]]:
    """Runs cells one after another; yields each with what went wrong, or None."""
    folder = output.folder
    for cell in cells:
        unmade = [c.name for c in cell.evaluates if c.read_result(folder) is None]
        if unmade:
            yield cell, f"there is no set of {', '.join(unmade)}."
            continue
        log = folder / cell.name / "log.txt"
        logging.info("%s: see %s", cell.name, log)
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
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
            process.terminate()  # It saves its state.
            process.wait()


def _stop(*_: Any) -> None:
    logging.info("Stopped by SIGTERM. The same command continues.")
    sys.exit(128 + signal.SIGTERM)


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"
