"""How fast this project's programs run, compared with PyTorch.

  python -m experiments.benchmark --output=runs/benchmark
  python -m experiments.benchmark --output=runs/growth --workloads= --growth
  python -m experiments.benchmark --output=runs/card --device=gpu --jobs=8 --seconds=560

The workloads use the paper's ConvNet and random images of a dataset's shapes:

  outer_step   an update of the images by the gradients of 256 real images per class; in
               this project an iteration of one outer step, which also draws networks
               and real images
  iteration    all outer steps and inner epochs of an iteration, as many as the paper
               has for these images per class; for one image it is an outer step
  dm_step      an iteration of distribution matching, without augmentation
  inner_epoch  an epoch of training on the synthetic set, as between outer steps
  eval_epoch   an epoch of the training of evaluation networks
  test_10k     a pass over 10,000 test images

The systems are the project as it runs by default (dc_jax), PyTorch as the authors of
the paper use it (pytorch), and variants of both:

  dc_jax       +map: one class after another; +vmap: all classes at once;
               +bfloat16: layers in bfloat16
  pytorch      +channels_last; +bfloat16: autocast; +compile: torch.compile;
               +graphs: the same with CUDA graphs (its mode reduce-overhead);
               +vmap: all classes at once

Each system runs a workload in its own process. All processes get ready and warm, then
they run in turn while the others wait. Nothing else should run on the machine. Without
PyTorch (`pip install -e ".[bench]"`) only this project is measured. A system that fails
is recorded with the reason, and the others go on.

The first value of each list of sizes is the most important. What has only first values
is measured first, and with all variants; then what has one other value, and so on.

The folder gets benchmark.jsonl (a line per measurement, written at once), benchmark.md
(the tables, which are also printed) and growth.png.
"""

import dataclasses
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from dc_jax.defaults import default_loops
from dc_jax.errors import UserError
from dc_jax.files.paths import check_folder, user_path
from dc_jax.run.command_line import log_to_terminal, refuse
from experiments.benchmark import report
from experiments.benchmark.cases import SHAPES, SMOKE, WORKLOADS, Case, peak_work
from experiments.benchmark.machine import machine
from experiments.benchmark.measure import STANDARD, measure
from experiments.benchmark.plan import groups, growing_cases, sized_cases
from experiments.benchmark.startup import measure_startup
from experiments.benchmark.systems import DEVICES, OURS, SYSTEMS, TORCH


def _default(name: str) -> str:
    """Returns a text for the help: the default on each device."""
    values = (
        f"{','.join(getattr(device, name)) or 'none'} on a {kind}"
        for kind, device in DEVICES.items()
    )
    return f"Default: {'; '.join(values)}."


_OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.", required=True)
_DEVICE = flags.DEFINE_enum(
    "device",
    "cpu",
    list(DEVICES),
    "Where all systems run. Default: cpu, also on a machine that has a GPU; gpu is the "
    "first of those that CUDA_VISIBLE_DEVICES names.",
)
_WORKLOADS = flags.DEFINE_list(
    "workloads", None, f"Workloads to measure. {_default('workloads')}"
)
_IPC = flags.DEFINE_list(
    "ipc", None, f"Numbers of synthetic images per class. {_default('ipc')}"
)
_SHAPES = flags.DEFINE_list(
    "shapes", "fashion_mnist", f"Shapes of images, among {', '.join(SHAPES)}."
)
_NETWORKS = flags.DEFINE_list("networks", "1", "Numbers of networks at once.")
_EXPERIMENTS = flags.DEFINE_list(
    "experiments", "1", "Numbers of sets that are condensed at once."
)
_EVALUATIONS = flags.DEFINE_integer(
    "evaluations",
    None,
    "Number of networks of eval_epoch and test_10k. Default: "
    + "; ".join(f"{d.evaluations} on a {kind}" for kind, d in DEVICES.items())
    + ".",
    lower_bound=1,
)
_SYSTEMS = flags.DEFINE_list(
    "systems", None, f"Systems to measure. {_default('systems')}"
)
_VARIANTS = flags.DEFINE_list(
    "variants",
    None,
    "Systems to measure where all sizes are the first of their lists, or 'all'. "
    + _default("variants"),
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Number of turns of each system.", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
    "seconds",
    float("inf"),
    "Time for all. What is not measured by then is left out. Default: no limit.",
    lower_bound=0,
)
_JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Number of programs that are compiled at the same time. On a GPU they disturb one "
    "another when they try what is fastest there, but several save time.",
    lower_bound=1,
)
_GROWTH = flags.DEFINE_bool(
    "growth", False, "Also measure outer steps of growing sizes."
)
_STARTUP = flags.DEFINE_bool("startup", False, "Also measure the start of the program.")
_SMOKE = flags.DEFINE_bool("smoke", False, "Use tiny sizes, to see whether all works.")
_PYTORCH = flags.DEFINE_bool(
    "pytorch", True, "Compare with PyTorch if it is installed."
)
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", None, "A Python that has PyTorch. Default: this one."
)


def main(argv: Sequence[str]) -> None:
    began = time.monotonic()
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    log_to_terminal()
    _check_flags()
    try:
        folder = user_path(_OUTPUT.value, "--output")
        check_folder(folder, "--output")
    except UserError as error:
        refuse(str(error))
    path = folder / "benchmark.jsonl"
    if path.exists():
        refuse(
            f"{folder} already holds a benchmark, perhaps an unfinished one: delete it "
            "or choose another folder."
        )
    end, pythons = began + _SECONDS.value, find_pythons()
    fixed: dict[str, Any] = {"device": _DEVICE.value}
    fixed |= SMOKE if _SMOKE.value else DEVICES[_DEVICE.value].sizes
    # Before the folder is made: perhaps there is no such device.
    first = [{"measurement": "machine", **machine(_DEVICE.value)}]
    first += _peaks(fixed, pythons, end)
    folder.mkdir(parents=True, exist_ok=True)
    records, tables = [], ""
    with path.open("w", encoding="utf-8", buffering=1) as file:
        for record in itertools.chain(first, _measure_all(fixed, pythons, end)):
            records.append(record)
            file.write(json.dumps(record) + "\n")
            # Now, because it may be ended before all is measured.
            tables = report.write(records, folder)
    print(tables)


def _chosen(flag: flags.FlagHolder) -> Sequence[str]:
    """Returns the value of a flag, or its default on the device."""
    if flag.value is None:
        return getattr(DEVICES[_DEVICE.value], flag.name)
    return flag.value


def _check_flags() -> None:
    """Ends the program where a list holds what it must not hold."""
    allowed = (
        (_WORKLOADS, WORKLOADS),
        (_SHAPES, SHAPES),
        (_SYSTEMS, SYSTEMS),
        (_VARIANTS, (*SYSTEMS, "all")),
    )
    for flag, names in allowed:
        if unknown := set(_chosen(flag)) - {*names}:
            refuse(
                f"--{flag.name} must be among {', '.join(names)}, got "
                f"{', '.join(sorted(unknown))}."
            )
    for flag in (_IPC, _NETWORKS, _EXPERIMENTS):
        if not all(text.isdecimal() and int(text) for text in _chosen(flag)):
            refuse(
                f"--{flag.name} must be whole numbers of at least 1, got {flag.value}."
            )
    for flag in (_IPC, _NETWORKS, _EXPERIMENTS, _SHAPES):
        if not _chosen(flag):
            refuse(f"--{flag.name} must not be empty.")


def _measure_all(
    fixed: dict[str, Any], pythons: dict[str, str], end: float
) -> Iterator[dict[str, Any]]:
    """Yields a record for each measurement of a case."""
    systems = {
        case: _systems_of(case, is_first=is_first, pythons=pythons)
        for case, is_first in _cases(fixed).items()
    }
    # Of each case the sizes that grow in it; None in a case of the flags.
    growths: dict[Case, list[str | None]] = {case: [None] for case in systems}
    if _GROWTH.value:
        for case, axis in growing_cases(fixed, is_smoke=_SMOKE.value):
            growths.setdefault(case, []).append(axis)
            names = _systems_of(case, is_first=False, pythons=pythons)
            systems.setdefault(case, names)
    for group in groups(systems, _JOBS.value):
        if time.monotonic() < end:
            options = {"rounds": _ROUNDS.value, "jobs": _JOBS.value, "end": end}
            records = measure(group, pythons, **options)
        else:
            logging.info("Left out: %s.", "; ".join(map(str, group)))
            why = {"measurement": "left_out", "error": "The time was up."}
            records = [why | dataclasses.asdict(case) for case in group]
        for record in records:
            case = Case(**{name: record[name] for name in Case.__dataclass_fields__})
            yield from ({**record, "growth": growth} for growth in growths[case])
    if _STARTUP.value and time.monotonic() < end:
        yield from measure_startup(_DEVICE.value, rounds=_ROUNDS.value)


def _peaks(
    fixed: dict[str, Any], pythons: dict[str, str], end: float
) -> Iterator[dict[str, Any]]:
    """Yields what the device can do; ends the program if it can do nothing."""
    cases = {
        Case(**(fixed | {"workload": workload, "cores": cores})): (STANDARD,)
        for workload, cores in DEVICES[_DEVICE.value].peaks
    }
    rounds = max(3, _ROUNDS.value)
    records = list(measure(cases, pythons, rounds=rounds, jobs=_JOBS.value, end=end))
    if all(record["measurement"] == "failed" for record in records):
        refuse(f"--device={_DEVICE.value}: {records[0]['error']}")
    for case, record in zip(cases, records, strict=True):
        if record["measurement"] == "workload":
            rate = {"per_second": peak_work(case) / record["min"]}
            record |= {"measurement": "peak", **rate}
        yield record


def _cases(fixed: dict[str, Any]) -> dict[Case, bool]:
    """Returns the cases in order, and whether all their sizes are the first."""
    ipc = list(map(int, _chosen(_IPC)))
    sizes = {
        "experiments": list(map(int, _EXPERIMENTS.value)),
        "networks": list(map(int, _NETWORKS.value)),
        "dataset": _SHAPES.value,
        "ipc": ipc,
    }
    return sized_cases(
        _chosen(_WORKLOADS),
        sizes,
        fixed,
        evaluations=_EVALUATIONS.value or DEVICES[_DEVICE.value].evaluations,
        loops={number: default_loops(number) for number in ipc},
    )


def _systems_of(case: Case, *, is_first: bool, pythons: dict[str, str]) -> list[str]:
    """Returns the systems that can be measured in a case."""
    names = _chosen(_SYSTEMS)
    if is_first:
        variants = _chosen(_VARIANTS)
        names = [*names, *(SYSTEMS if "all" in variants else variants)]
    return [
        name
        for name in dict.fromkeys(names)
        if SYSTEMS[name].module in pythons and case.workload in SYSTEMS[name].workloads
    ]


def find_pythons() -> dict[str, str]:
    """Returns the interpreter of each module of `SYSTEMS` that can run here."""
    pythons = {OURS: sys.executable}
    if not _PYTORCH.value:
        return pythons
    if _TORCH_PYTHON.value or importlib.util.find_spec("torch"):
        pythons[TORCH] = _TORCH_PYTHON.value or sys.executable
    else:
        logging.info(
            "PyTorch is not installed, so only dc_jax is measured. To compare: "
            "pip install -e '.[bench]', or --torch_python."
        )
    return pythons


if __name__ == "__main__":
    app.run(main)
