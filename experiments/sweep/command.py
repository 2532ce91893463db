"""What the commands of single runs share: flags, and errors as one line."""

import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from dc_jax.errors import ERRORS, one_line
from dc_jax.files.paths import user_path
from dc_jax.run.command_line import log_to_terminal, parse_flags, refuse


def main(run: Callable[..., Any], default: str | None, *, sets: str) -> None:
    """Runs `run(values, folder, *sets)` as a command.

    Args:
      run: takes the values of the config, the folder of the run, and folders of other
        runs.
      default: file of the config; None if the flag is needed.
      sets: help of `--set`, the folders of other runs joined by commas.
    """
    config = config_flags.DEFINE_config_file(
        "config", default, "The run.", lock_config=True
    )
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_list("set", [], sets)

    # So that `--help` shows them.
    for name in ("config", "workdir", "set"):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

    def command(argv: list[str]) -> None:
        if len(argv) > 1:
            refuse(f"unexpected argument {argv[1]!r}.")
        if config.value is None:
            refuse("--config=FILE is needed.")
        log_to_terminal()
        # Not imported above, so that `--help` does not wait for JAX.
        from dc_jax.devices import layout
        from dc_jax.devices.backend import fixed_numerics
        from dc_jax.run.signals import Stopped

        layout.use_cpu_cores()
        try:
            with fixed_numerics():
                workdir = user_path(flags.FLAGS.workdir, "--workdir")
                sets = [user_path(path, "--set") for path in flags.FLAGS.set]
                run(config.value.to_dict(), str(workdir), *map(str, sets))
        except ERRORS as error:
            sys.exit(f"error: {one_line(error)}")
        except Stopped as stopped:
            logging.info("%s", stopped)
            sys.exit(stopped.exit_code)

    app.run(command, flags_parser=parse_flags)
