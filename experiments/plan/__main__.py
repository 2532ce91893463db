"""Compiles an iteration for a TPU that need not be there, and tells what it would take.

  python -m experiments.plan --config=configs/cifar100.py --topology=v5e:2x4
  python -m experiments.plan --table --topology=v5e:2x4,v4:2x2x2

This needs the extra `tpu` (libtpu), which compiles on any machine, and no dataset. The
memory is what the compiler gives for the real step. The time is an estimate by the
roofline model and was never measured: see `planning.Plan` for what it assumes.

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
from experiments.plan.chips import CHIPS, parse_topology
from experiments.plan.compiling import check_libtpu
from experiments.plan.planning import PAPER, describe, make_plan, run_table

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The run, a file of configs/.", lock_config=True
)
_TOPOLOGY = flags.DEFINE_list(
    "topology", ["v5e:2x4"], f"Chips, such as v5e:2x4; one of {', '.join(CHIPS)}."
)
_TABLE = flags.DEFINE_bool("table", False, "Plan all cells of the paper, not one run.")
_ROWS = flags.DEFINE_string(
    "rows", "runs/plan.jsonl", "With --table: the file that keeps the cells."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    if not any(_TOPOLOGY.value):
        refuse("--topology must name chips, such as v5e:2x4.")
    if _TABLE.value == bool(_CONFIG.value):
        refuse("either --config=FILE or --table is needed.")
    # Nothing runs here, so a TPU of this machine stays free for others.
    jax.config.update("jax_platforms", "cpu")
    try:
        for topology in _TOPOLOGY.value:
            parse_topology(topology)
        check_libtpu()
        if _TABLE.value:
            for line in run_table(PAPER, _TOPOLOGY.value, Path(_ROWS.value)):
                print(line, flush=True)
            return
        config = Config.create(_CONFIG.value.to_dict())
        for topology in _TOPOLOGY.value:
            print(describe(config, make_plan(config, topology)), flush=True)
    except ERRORS as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
