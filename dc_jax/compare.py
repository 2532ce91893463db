"""Compares methods on one dataset: each makes a set, and all are evaluated alike.

  python -m dc_jax.compare --config=configs/digits.py --methods=random,herding,dc,dm \\
      --workdir=runs/comparison --config.ipc=1

The workdir gets comparison.html, a page with the table and the images; comparison.json,
the same numbers; and the folder of a run for every method. The same command continues
a comparison that was stopped. Random images are always among the methods.
"""

from absl import app, flags
from ml_collections import config_flags

from dc_jax.files.paths import user_path
from dc_jax.progress import Progress
from dc_jax.run.command_line import begin, end_on_signals, parse_flags, refuse

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Required. The file that describes the run.", lock_config=True
)
_METHODS = flags.DEFINE_list(
    "methods", ["random", "herding", "dc", "dm"], "Methods, joined by commas."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Required. The folder of the results.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    if _CONFIG.value is None or not _WORKDIR.value:
        refuse("--config=FILE and --workdir=FOLDER are needed.")
    begin()

    # Not before: `--help` and a mistyped flag need not wait for JAX.
    with Progress("Starting"):
        from dc_jax.devices import layout
        from dc_jax.report.comparison import HEAD, cells
        from dc_jax.run.comparison import compare
        from dc_jax.run.ending import ends_in_a_line

    layout.use_cpu_cores()
    with ends_in_a_line():
        folder = user_path(_WORKDIR.value, "--workdir")
        rows = compare(_CONFIG.value.to_dict(), _METHODS.value, folder)
    table = [HEAD, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


if __name__ == "__main__":
    end_on_signals("Nothing was begun.")
    app.run(main, flags_parser=parse_flags)
