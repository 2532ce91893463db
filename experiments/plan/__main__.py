"""Compiles an iteration for chips that need not be there, and tells what it would take.

  python -m experiments.plan --config=configs/cifar100.py --target=v5e:2x4
  python -m experiments.plan --config=configs/cifar10.py --target=h100
  python -m experiments.plan --table --target=v5e:2x4,v4:2x2x1

This needs the extra `plan`, which has the compilers for TPUs and NVIDIA GPUs and runs
on any x86 machine with Linux, and no dataset. The memory is what the compiler gives for
the real step. The time is an estimate: see `planning.Plan` for what it assumes.

`--table` plans all cells of the paper's table and keeps each in the file `--rows`, so
the same command continues a table that was stopped. After a change of the program,
choose another file.
"""

import sys
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from dc_jax.config import Config
from dc_jax.errors import ERRORS, one_line
from dc_jax.run.command_line import parse_flags, refuse
from experiments.plan.planning import describe, make_plan
from experiments.plan.table import PAPER, run_table
from experiments.plan.target import NAMES, check_compiler, load_target

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The run, a file of configs/.", lock_config=True
)
_TARGET = flags.DEFINE_list(
    "target",
    ["v5e:2x4"],
    f"Chips, one or several of {', '.join(NAMES)}, each alone for one chip, or with a "
    "grid of chips of TPUs or a number of GPUs, such as v5e:2x4 or h100:4.",
)
_TABLE = flags.DEFINE_bool("table", False, "Plan all cells of the paper, not one run.")
_ROWS = flags.DEFINE_string(
    "rows", "runs/plan.jsonl", "With --table: the file that keeps the cells."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    if not any(_TARGET.value):
        refuse("--target must name chips, such as v5e:2x4.")
    if _TABLE.value == bool(_CONFIG.value):
        refuse("either --config=FILE or --table is needed, and not both.")
    # Nothing runs here, so a chip of this machine stays free for others.
    jax.config.update("jax_platforms", "cpu")
    try:
        for target in _TARGET.value:
            check_compiler(load_target(target))
        if _TABLE.value:
            for line in run_table(PAPER, _TARGET.value, Path(_ROWS.value)):
                print(line, flush=True)
            return
        config = Config.create(_CONFIG.value.to_dict())
        for target in _TARGET.value:
            print(describe(config, make_plan(config, target)), flush=True)
    except ERRORS as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
