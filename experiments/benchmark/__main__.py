"""How fast this project's programs run on the CPU, compared with plain PyTorch.

  python -m experiments.benchmark --output=runs/benchmark
  python -m experiments.benchmark --output=runs/growth --workloads= --growth

The workloads use the paper's ConvNet and random images of FashionMNIST's shapes:

  outer_step   an update of the images by the gradients of 256 real images per class; in
               this project an iteration of one outer step, which also draws networks
               and real images
  inner_epoch  an epoch of training on the synthetic set, as between outer steps
  eval_epoch   an epoch of the training of evaluation networks
  test_10k     a pass over 10,000 test images
  dm_step      an iteration of distribution matching, without augmentation

Each system runs a workload in its own process. Both processes get ready and warm, then
they run in turn while the other waits. Nothing else should run on the machine. Without
PyTorch (`pip install -e ".[bench]"`) only this project is measured.

The folder gets benchmark.jsonl (a line per measurement, written at once), benchmark.md
(the tables, which are also printed) and growth.png.
"""

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from dc_jax.errors import UserError
from dc_jax.paths import user_path
from experiments.benchmark import report
from experiments.benchmark.cases import (
    GROWTH,
    SMOKE,
    SMOKE_GROWTH,
    WORKLOADS,
    Case,
)
from experiments.benchmark.machine import machine
from experiments.benchmark.measure import measure, measure_startup

_OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.", required=True)
_IPC = flags.DEFINE_list("ipc", "1,10,50", "Numbers of synthetic images per class.")
_NETWORKS = flags.DEFINE_list("networks", "1", "Numbers of networks at once.")
_WORKLOADS = flags.DEFINE_list(
    "workloads", ",".join(WORKLOADS), "Workloads to measure."
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Number of turns of each system.", lower_bound=1
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
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    logging.set_verbosity(max(logging.INFO, logging.get_verbosity()))
    unknown = set(_WORKLOADS.value) - {*WORKLOADS}
    if unknown:
        raise app.UsageError(
            f"--workloads must be among {', '.join(WORKLOADS)}, got "
            f"{', '.join(unknown)}."
        )
    for flag in (_IPC, _NETWORKS):
        if not all(text.isdecimal() and int(text) for text in flag.value):
            raise app.UsageError(
                f"--{flag.name} must be whole numbers of at least 1, got {flag.value}."
            )
    try:
        folder = user_path(_OUTPUT.value, "--output")
    except UserError as error:
        raise app.UsageError(str(error)) from None
    path = folder / "benchmark.jsonl"
    if path.exists():
        raise app.UsageError(
            f"{folder} already holds a benchmark, perhaps an unfinished one: delete it "
            "or choose another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    with path.open("w", encoding="utf-8", buffering=1) as file:
        for record in _measure_all():
            records.append(record)
            file.write(json.dumps(record) + "\n")
    print(report.write(records, folder))


def _measure_all() -> Iterator[dict[str, Any]]:
    """Yields a record for each measurement."""
    yield {"measurement": "machine", **machine()}
    base = SMOKE if _SMOKE.value else Case()
    pythons = find_pythons()
    for cores in (1, None):
        case = dataclasses.replace(base, workload="matmul", cores=cores)
        ours = {"dc_jax": pythons["dc_jax"]}
        (record,) = measure(case, ours, rounds=max(3, _ROUNDS.value))
        gflops = record["direct_flops"] / record["min"] / 1e9
        yield {**record, "measurement": "matmul", "gflops": gflops}
    known: dict[Case, list[dict[str, Any]]] = {}
    for case, growth in _cases(base):
        if case not in known:
            known[case] = measure(case, pythons, rounds=_ROUNDS.value)
        yield from ({**record, "growth": growth} for record in known[case])
    if _STARTUP.value:
        yield from measure_startup(rounds=_ROUNDS.value)


def _cases(base: Case) -> Iterator[tuple[Case, str | None]]:
    """Yields the cases to measure, and the size that grows, or None."""
    for workload in _WORKLOADS.value:
        # A pass over the test images does not depend on the synthetic images.
        ipcs = _IPC.value[:1] if workload == "test_10k" else _IPC.value
        for networks in map(int, _NETWORKS.value):
            for ipc in map(int, ipcs):
                changes = {"workload": workload, "ipc": ipc, "networks": networks}
                yield dataclasses.replace(base, **changes), None
    if _GROWTH.value:
        for axis, values in (SMOKE_GROWTH if _SMOKE.value else GROWTH).items():
            for value in values:
                yield dataclasses.replace(base, **{axis: value}), axis


def find_pythons() -> dict[str, str]:
    """Returns the interpreter of each system that can be measured here."""
    pythons = {"dc_jax": sys.executable}
    if not _PYTORCH.value:
        return pythons
    if _TORCH_PYTHON.value or importlib.util.find_spec("torch"):
        pythons["pytorch"] = _TORCH_PYTHON.value or sys.executable
    else:
        logging.info(
            "PyTorch is not installed, so only dc_jax is measured. To compare: "
            "pip install -e '.[bench]', or --torch_python."
        )
    return pythons


if __name__ == "__main__":
    app.run(main)
