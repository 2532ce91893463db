"""What an iteration of a run takes on chips: memory, work and an estimate of time."""

import dataclasses

from dc_jax.config import Config, describe_ipc
from dc_jax.devices.backend import fixed_numerics
from experiments.plan import cost, cycles, hlo, launches
from experiments.plan.compiling import compile_program, make_program
from experiments.plan.loops import Loops, loops_of
from experiments.plan.target import GIB, Target, find_devices, load_target

# What to change where a run does not fit; the first three leave its results as they
# are.
ADVICE = (
    "a smaller --config.execution.slice_size, --config.execution.network_loop=map, "
    "--config.execution.class_loop=map, more chips, a smaller --config.num_networks or "
    "--config.num_experiments=1"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one iteration of all experiments of a run takes.

    Each number is of one of the devices. The time is an estimate:

    - For a TPU it is the sum of the cycles that its compiler expects of each operation,
      divided by the clock. Exchange between chips counts as free.
    - For a GPU each launch counts with what bounds it, see `launches`.

    Attributes:
      target: the chips.
      num_devices: chips that the program uses.
      memory_bytes: see `compiling.Compiled`.
      fits: whether the program fits into the memory of the chips.
      flops: operations of matrix products and convolutions.
      bytes: of their operands and results, each once per use, in float32.
      launches: operations that a GPU launches; None on a TPU.
      cycles: that a TPU takes; None on a GPU.
      missing: operations whose cycles the compiler does not tell.
      seconds: estimated time of an iteration; None if there is no program.
      hours: estimated time of all iterations.
    """

    target: str
    num_devices: int
    memory_bytes: int | None
    fits: bool
    flops: float
    bytes: float
    launches: float | None = None
    cycles: float | None = None
    missing: float | None = None
    seconds: float | None = None
    hours: float | None = None


def make_plan(config: Config, target_name: str) -> Plan:
    """Compiles the step of a run and estimates its time.

    Raises:
      UserError: the target or the dataset is unknown, or a compiler is missing.
    """
    target = load_target(target_name)
    devices = find_devices(target)
    with fixed_numerics():
        program = make_program(config, devices)
        traced = program.step.trace(*program.args)
        compiled = compile_program(traced, target.memory_bytes)
    loops = loops_of(config)
    work = cost.count(traced.jaxpr, while_trips=loops.trips, share=loops.share)
    plan = Plan(
        target=target.name,
        num_devices=program.layout.everything.size,
        memory_bytes=compiled.memory_bytes,
        fits=compiled.fits,
        flops=work.flops,
        bytes=work.bytes,
    )
    if compiled.text is None:
        return plan
    plan = estimate(plan, hlo.parse(compiled.text), target, loops)
    return dataclasses.replace(plan, hours=config.iterations * plan.seconds / 3600)


def estimate(plan: Plan, program: hlo.Program, target: Target, loops: Loops) -> Plan:
    """Returns a plan with the time of an iteration, see `Plan`."""
    if target.launch:
        launched = launches.count(program, loops, target.launch)
        return dataclasses.replace(
            plan, launches=launched.number, seconds=launched.seconds
        )
    spent = cycles.count(program, loops)
    return dataclasses.replace(
        plan,
        cycles=spent.total,
        missing=spent.missing,
        seconds=spent.total / target.clock,
    )


def limit(plan: Plan, target: Target) -> float:
    """Returns the seconds below which no such chip can be: its roofline.

    The operations at the published peak of the chip for float32 as JAX multiplies it by
    default: in one pass of bfloat16 on a TPU
    (https://docs.jax.dev/en/latest/201/precision.html), in TF32 on an H100.
    """
    return plan.flops / target.flops


def describe(config: Config, plan: Plan) -> str:
    """Returns a plan as lines of text, without a final line break."""
    target = load_target(plan.target)
    lines = [
        f"{config.dataset.name}, {describe_ipc(config.ipc)} image(s) per class, "
        f"{plan.target}, {plan.num_devices} device(s) used",
        f"memory    {gib(plan.memory_bytes)} of {gib(target.memory_bytes)} per device: "
        f"{'fits' if plan.fits else 'does not fit'}",
        *([] if plan.fits else [f"try       {ADVICE}"]),
        f"work      {plan.flops:.3g} FLOPs of products and convolutions per iteration "
        f"and device, with {plan.bytes:.3g} bytes of operands and results",
        f"limit     {_duration(limit(plan, target))} for these operations at the "
        f"published {target.flops / 1e12:g} TFLOP/s; "
        f"{_duration(plan.bytes / target.bandwidth)} if all these bytes go through "
        f"memory at {target.bandwidth / 1e9:g} GB/s",
        *_describe_time(config, plan, target),
    ]
    if (precision := config.execution.precision) != "default":
        lines.append(
            f"note      limit{' and estimate are' if target.launch else ' is'} for the "
            f"default precision; {precision} is slower"
        )
    return "\n".join(lines)


def _describe_time(config: Config, plan: Plan, target: Target) -> list[str]:
    if plan.seconds is None:
        return ["estimate  none: the compiler ran out of memory"]
    if target.launch:
        launch = target.launch
        program = f"{plan.launches:,.0f} launches per iteration and device"
        kind = (
            f"each launch is the longest of {1e6 * launch.seconds:g} us, its bytes at "
            f"{launch.bandwidth / 1e9:g} GB/s and its operations at "
            f"{launch.flops / 1e12:g} TFLOP/s"
        )
    else:
        program = f"{plan.cycles:.3g} cycles per iteration and device"
        kind = (
            f"the sum of the compiler's own estimates at {target.clock / 1e9:g} GHz; "
            f"never compared with a TPU"
        )
    return [
        f"program   {program}",
        f"estimate  {_duration(plan.seconds)} per iteration of "
        f"{config.num_experiments} experiment(s), {plan.hours:.2g} hours for "
        f"{config.iterations}: {kind}",
    ]


def gib(number: int | None) -> str:
    """Returns a number of bytes in words."""
    return "unknown" if number is None else f"{number / GIB:.3g} GiB"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
