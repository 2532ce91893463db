"""What an iteration of a run takes on chips: memory, work and an estimate of time."""

import dataclasses
import importlib
import importlib.metadata
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dc_jax.config import Config, describe_ipc
from dc_jax.files import append_json_line
from experiments.plan import compiling, cost
from experiments.plan.chips import GIB, Chip, parse_topology

# The datasets and the images per class of the paper's table 1.
PAPER = ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
PAPER_IPC = (50, 10, 1)
# What to change where a run does not fit; the first two leave its results as they are.
ADVICE = (
    "a smaller --config.execution.slice_size, --config.execution.network_loop=map, "
    "more chips, a smaller --config.num_networks or --config.num_experiments=1"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one iteration of all experiments of a run takes.

    The time is the longer of two times:

    - Computing: all operations of matrix products and convolutions at the published
      peak of bfloat16, in one pass, which is JAX's default precision of float32 on a
      TPU (https://docs.jax.dev/en/latest/201/precision.html). No chip is faster; small
      channels and batches keep it from reaching this peak.
    - Moving: the operands and results of each of these, in float32, through HBM at the
      published bandwidth. It is too long by what the compiler keeps on the chip, and
      too short by what it does not fuse into a product.

    Exchange between chips counts as free.

    Attributes:
      topology: of the chips.
      num_devices: chips that the program uses; each number below is of one of them.
      memory_bytes: see `compiling.Memory`.
      fits: whether the program fits into the memory of the chips.
      flops: operations of matrix products and convolutions.
      bytes: of their operands and results.
      seconds: estimated time of an iteration.
      hours: estimated time of all iterations.
    """

    topology: str
    num_devices: int
    memory_bytes: int | None
    fits: bool
    flops: float
    bytes: float
    seconds: float
    hours: float


def make_plan(config: Config, topology: str) -> Plan:
    """Compiles the step of a run and estimates its time.

    Raises:
      UserError: the topology or the dataset is unknown.
    """
    chip = parse_topology(topology)
    program = compiling.make_program(config, compiling.get_devices(topology, chip))
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
        flops=work.flops,
        bytes=work.bytes,
        seconds=seconds,
        hours=config.iterations * seconds / 3600,
    )


def mean_epochs(config: Config) -> float:
    """Returns the mean number of inner epochs per outer step.

    The only `while` with products in it is the training of the networks: 0 epochs
    before the first outer step and `inner_loop` epochs before each of the others.
    """
    outer_loop, inner_loop = config.loops()
    return inner_loop * (outer_loop - 1) / outer_loop


def roofline(work: cost.Cost, chip: Chip) -> float:
    """Returns the seconds of the slower of computing and moving; see `Plan`."""
    return max(work.flops / chip.flops, work.bytes / chip.bandwidth)


def describe(config: Config, plan: Plan) -> str:
    """Returns a plan as lines of text, without a final line break."""
    chip = parse_topology(plan.topology)
    lines = [
        f"{config.dataset.name}, {describe_ipc(config.ipc)} image(s) per class, "
        f"{plan.topology}, {plan.num_devices} device(s) used",
        f"memory    {_gib(plan.memory_bytes)} of {_gib(chip.hbm_bytes)} per device: "
        f"{'fits' if plan.fits else 'does not fit'}",
        *([] if plan.fits else [f"try       {ADVICE}"]),
        f"work      {plan.flops:.3g} FLOPs, {plan.bytes:.3g} bytes per iteration "
        f"and device",
        f"computing {_duration(plan.flops / chip.flops)} at {chip.flops / 1e12:g} "
        f"TFLOP/s (bfloat16, one pass): at least",
        f"moving    {_duration(plan.bytes / chip.bandwidth)} at "
        f"{chip.bandwidth / 1e9:g} GB/s (all operands and results, float32)",
        f"estimate  {_duration(plan.seconds)} per iteration of "
        f"{config.num_experiments} experiment(s), {plan.hours:.2g} hours for "
        f"{config.iterations}; not measured",
    ]
    return "\n".join(lines)


def _gib(number: int | None) -> str:
    return "unknown" if number is None else f"{number / GIB:.3g} GiB"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


TABLE_HEAD = """\
| dataset | images per class | chips | devices used | memory per device | fits | \
TFLOPs per iteration | seconds per iteration, estimate | hours per cell, estimate |
|---|---|---|---|---|---|---|---|---|"""


def table_row(name: str, ipc: int, plan: Plan) -> str:
    """Returns a row of the table `TABLE_HEAD`."""
    return (
        f"| {name} | {ipc} | {plan.topology} | {plan.num_devices} "
        f"| {_gib(plan.memory_bytes)} | {'yes' if plan.fits else 'no'} "
        f"| {plan.flops / 1e12:.3g} | {plan.seconds:.2g} | {plan.hours:.2g} |"
    )


def run_table(
    names: Sequence[str], topologies: Sequence[str], path: Path
) -> Iterator[str]:
    """Yields the table line by line; what `path` holds is not compiled again.

    Cells with the most images per class come first, because they need the most memory.

    Args:
      names: of files of configs/.
      topologies: each is planned for every file.
      path: JSON lines, one per cell; created where needed.
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
            append_json_line(path, row)
        yield table_row(name, ipc, done[cell])


def _cell_name(config: Config, topology: str) -> str:
    """Returns all that a plan follows from, except the code."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    values = {"config": dataclasses.asdict(config), "topology": topology, **versions}
    return json.dumps(values, sort_keys=True)
