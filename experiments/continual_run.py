"""Learns a sequence of tasks with a memory of condensed or chosen images.

  python -m experiments.continual_run --config=configs/experiments/continual_run.py \
      --workdir=runs/continual --config.condense.method=herding

The same command again continues a run that was stopped, after the last task that it has
learned. In the workdir: networks (after each task), memory_1 and so on (each the folder
of a run of `dc_jax.main`) and result.json.
"""

import logging as std_logging
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from dc_jax.command_line import one_line, parse_flags


def main() -> None:
    """Runs the command."""
    config = config_flags.DEFINE_config_file(
        "config", "configs/experiments/continual_run.py", "The run.", lock_config=True
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


def run(values: dict[str, Any], folder: str, sets: str | None = None) -> dict[str, Any]:
    """Learns all tasks, see `continual.run`."""
    # Not before: `--help` and a mistyped flag need not wait for JAX.
    from experiments import continual

    return continual.run(values, folder, sets=sets)


if __name__ == "__main__":
    main()
