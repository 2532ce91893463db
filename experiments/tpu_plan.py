"""Compiles an iteration for a TPU that need not be there, and tells what it would take.

  python -m experiments.tpu_plan --config=configs/cifar100.py --topology=v5e:2x4
  python -m experiments.tpu_plan --table --topology=v5e:2x4,v4:2x2x2

Needs the extra `tpu` (libtpu), which compiles on any machine, and no dataset. Memory is
what the compiler gives for the real step. Time is an estimate by the roofline model and
was never measured: see `Plan` for what it assumes. `--table` does all of the paper's
cells and keeps each in `--rows`, so the same command again continues a table that was
stopped; after a change of the program, begin with another file.
"""

import dataclasses
import importlib
import importlib.metadata
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from dc_jax.config import Config, describe_ipc
from dc_jax.errors import one_line
from dc_jax.run.command_line import parse_flags
from experiments import compiling, cost, smaller
from experiments.chips import CHIPS, GIB, Chip, parse_topology

PAPER = ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
PAPER_IPC = (50, 10, 1)

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The run, a file of configs/.", lock_config=True
)
_TOPOLOGY = flags.DEFINE_list(
    "topology", ["v5e:2x4"], f"Chips, as v5e:2x4; of {', '.join(CHIPS)}."
)
_TABLE = flags.DEFINE_bool("table", False, "All cells of the paper instead of a run.")
_ROWS = flags.DEFINE_string(
    "rows", "runs/tpu_plan.jsonl", "With --table: the file of the cells done."
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one iteration takes, all experiments of the run in it.

    The time is the longer of two. Computing: all operations of matrix products and
    convolutions at the published peak of bfloat16, in one pass, as JAX's default
    precision on TPU has float32 (https://docs.jax.dev/en/latest/201/precision.html). No
    chip is faster than that; small channels and batches keep it from getting there.
    Moving: the operands and results of each of these, in float32, through HBM at the
    published bandwidth. What the compiler keeps on the chip makes that too long, all
    that is not fused into a product makes it too short. Exchange between chips is free.

    Attributes:
      topology: of the chips.
      num_devices: chips that the program uses; each number below is of one of them.
      memory_bytes: see `compiling.Memory`.
      fits: whether it fits.
      advice: what fits instead; None where it fits, or nothing was found.
      flops: of matrix products and convolutions.
      bytes: of their operands and results.
      seconds: the estimate of an iteration.
      hours: of all iterations.
    """

    topology: str
    num_devices: int
    memory_bytes: int | None
    fits: bool
    advice: str | None
    flops: float
    bytes: float
    seconds: float
    hours: float


def make_plan(config: Config, topology: str) -> Plan:
    """Compiles the step of a run and estimates its time.

    Raises:
      UserError: the topology or the dataset is unknown, or libtpu is missing.
    """
    chip = parse_topology(topology)
    devices = compiling.get_devices(topology, chip)
    program = compiling.make_program(config, devices)
    memory = compiling.measure_memory(program, chip)
    work = cost.count(
        program.step.trace(*program.args).jaxpr, while_trips=mean_epochs(config)
    )
    seconds = roofline(work, chip)
    return Plan(
        topology=topology,
        num_devices=program.layout.everything.size,
        memory_bytes=memory.bytes,
        fits=memory.fits,
        advice=None if memory.fits else smaller.find(config, program, devices, chip),
        flops=work.flops,
        bytes=work.bytes,
        seconds=seconds,
        hours=config.iterations * seconds / 3600,
    )


def mean_epochs(config: Config) -> float:
    """Returns the inner epochs of an outer step, on average.

    The only `while` with products in it is the training of the networks, for 0 epochs
    before the first outer step and `inner_loop` before each of the others.
    """
    outer_loop, inner_loop = config.loops()
    return inner_loop * (outer_loop - 1) / outer_loop


def roofline(work: cost.Cost, chip: Chip) -> float:
    """Returns the seconds of the slower of computing and moving; see `Plan`."""
    return max(work.flops / chip.flops, work.bytes / chip.bandwidth)


def describe(config: Config, plan: Plan) -> str:
    """Returns a plan for people, without a line's end."""
    chip = parse_topology(plan.topology)
    memory = "unknown" if plan.memory_bytes is None else _gib(plan.memory_bytes)
    lines = [
        f"{config.dataset.name}, {describe_ipc(config.ipc)} image(s) a class, "
        f"{plan.topology}, {plan.num_devices} device(s) used",
        f"memory    {memory} of {_gib(chip.hbm_bytes)} a device: "
        f"{'fits' if plan.fits else 'does not fit'}",
    ]
    if not plan.fits:
        lines.append(f"instead   {plan.advice or 'nothing that was tried fits'}")
    return "\n".join(
        [
            *lines,
            f"work      {plan.flops:.3g} FLOPs, {plan.bytes:.3g} bytes an iteration "
            f"and device",
            f"computing {_duration(plan.flops / chip.flops)} at "
            f"{chip.flops / 1e12:g} TFLOP/s (bfloat16, one pass): not faster",
            f"moving    {_duration(plan.bytes / chip.bandwidth)} at "
            f"{chip.bandwidth / 1e9:g} GB/s (all operands and results, float32)",
            f"estimate  {_duration(plan.seconds)} an iteration of "
            f"{config.num_experiments} experiment(s), {plan.hours:.2g} hours for "
            f"{config.iterations}; not measured",
        ]
    )


def _gib(number: int) -> str:
    return f"{number / GIB:.3g} GiB"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


TABLE_HEAD = """\
| dataset | images a class | chips | devices used | memory a device | fits | \
TFLOPs an iteration | seconds an iteration, estimate | hours a cell, estimate |
|---|---|---|---|---|---|---|---|---|"""


def table_row(name: str, ipc: int, plan: Plan) -> str:
    """Returns a row of the table `TABLE_HEAD`."""
    memory = "?" if plan.memory_bytes is None else _gib(plan.memory_bytes)
    fits = "yes" if plan.fits else f"no; {plan.advice or 'nothing tried does'}"
    return (
        f"| {name} | {ipc} | {plan.topology} | {plan.num_devices} | {memory} | {fits} "
        f"| {plan.flops / 1e12:.3g} | {plan.seconds:.2g} | {plan.hours:.2g} |"
    )


def run_table(names: list[str], topologies: list[str], path: Path) -> Iterator[str]:
    """Yields the table line by line; what is in `path` is not compiled again.

    Most images a class come first, as they need the most memory.

    Args:
      names: of files of configs/.
      topologies: for each.
      path: JSON lines, one a cell; created where needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {row["cell"]: Plan(**row["plan"]) for row in map(json.loads, lines)}
    yield TABLE_HEAD
    for topology, ipc, name in itertools.product(topologies, PAPER_IPC, names):
        values = importlib.import_module(f"configs.{name}").get_config()
        values.ipc = ipc
        config = Config.create(values.to_dict())
        cell = _cell_name(config, topology)
        if cell not in done:
            began = time.process_time()
            done[cell] = make_plan(config, topology)
            row = {
                "cell": cell,
                "plan": dataclasses.asdict(done[cell]),
                "cpu_seconds_to_plan": round(time.process_time() - began, 1),
            }
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        yield table_row(name, ipc, done[cell])


def _cell_name(config: Config, topology: str) -> str:
    """All that a plan follows from, but the code."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    values = {"config": dataclasses.asdict(config), "topology": topology, **versions}
    return json.dumps(values, sort_keys=True)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    if not any(_TOPOLOGY.value):
        raise app.UsageError("--topology must name chips, as v5e:2x4.")
    if _TABLE.value == bool(_CONFIG.value):
        raise app.UsageError("either --config=FILE or --table is needed.")
    # Nothing runs: a TPU that is there stays free for others.
    jax.config.update("jax_platforms", "cpu")
    try:
        for topology in _TOPOLOGY.value:
            parse_topology(topology)
        compiling.check_libtpu()
        if _TABLE.value:
            for line in run_table(list(PAPER), _TOPOLOGY.value, Path(_ROWS.value)):
                print(line, flush=True)
            return
        config = Config.create(_CONFIG.value.to_dict())
        for topology in _TOPOLOGY.value:
            print(describe(config, make_plan(config, topology)), flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
